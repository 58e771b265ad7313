"""Benchmarks: readers of published question sets and the generator of MedConceptsQA."""
