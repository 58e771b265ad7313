"""What is kept on the way: checkpoints, the best step, what an interruption leaves."""
