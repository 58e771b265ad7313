"""Loops in numba's Python as machine code that outlives the process; what is looped over belongs to the rooms."""
