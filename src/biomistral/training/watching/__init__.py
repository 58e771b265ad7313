"""What a training is seen by: speed, losses, scores, and where they go."""
