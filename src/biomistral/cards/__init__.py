"""Hugging Face cards of what was made: models in every form, corpora and benchmarks."""
