"""What is computed in a step: attention, norms, the loss, what is kept for backward."""
