"""Turn an open language model into a medical one, and prove what it got."""

__version__ = "0.1.0"
