"""Asking a model multiple-choice questions: what evaluation does, and what training does to see how far it is."""
