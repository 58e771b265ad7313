"""Integers that are found on calibration text, one decoder layer after the other."""
