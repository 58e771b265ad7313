"""Benchmarks in other languages: translated by any engine, every item proved sound or sent back."""
