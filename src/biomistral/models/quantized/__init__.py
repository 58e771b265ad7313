"""Models in integers: how they lie on disk, and how they run."""
