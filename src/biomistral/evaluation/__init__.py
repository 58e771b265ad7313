"""Evaluation: published protocols, exactly, and one record an answer."""
