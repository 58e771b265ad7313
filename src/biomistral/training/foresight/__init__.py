"""What a training will take, said before it starts: steps, memory, hours."""
