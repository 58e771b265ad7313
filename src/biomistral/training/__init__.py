"""Continued pre-training and fine-tuning: one loop, two uses."""
