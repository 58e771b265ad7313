"""What a corpus holds and cost, as numbers, as a page, and in a terminal."""
