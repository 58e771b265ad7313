"""How much text an encoder-decoder model is given at once, and may answer."""

MOST_TOKENS = 512
"""What these models were trained on; more than Marian has positions for. Each side."""

MARKS = 3
"""Tokens around a text at most: of its language, of its beginning and its end."""
