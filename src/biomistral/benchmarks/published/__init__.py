"""Benchmarks from the files their authors or the Hugging Face hub publish."""
