"""Putting a finished folder on the Hugging Face hub, with its card."""
