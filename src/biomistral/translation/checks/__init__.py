"""What can be wrong with a translation: a pure function a fault, each with its reason."""
