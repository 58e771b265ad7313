"""Quantisation: smaller models, and the proof of what was lost."""
