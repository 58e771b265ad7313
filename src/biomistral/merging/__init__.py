"""Merging models: mergekit's files and numbers, streamed."""
