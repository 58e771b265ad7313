"""Which documents fill the token budget."""
