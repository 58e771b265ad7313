"""SentencePiece-like vocabularies: the merges that scores stand for.

A GGUF file of kind ``llama`` holds pieces and their scores; llama.cpp joins, of all neighbours that make a piece, those of the
highest score. tokenizers wants the same as an ordered list of merges: every way to cut a piece in two pieces, best first.
"""

from collections.abc import Container, Mapping

PLAIN, SPACE = " ", "▁"
"""A space, and the character that stands for it inside pieces."""


def merges_of(scores: Mapping[str, float], vocabulary: Container[str]) -> list[tuple[str, str]]:
    """All pairs of tokens that make one of the pieces: by score, then by the length of what stands first."""
    pieces = sorted((piece for piece in scores if len(piece) > 1), key=lambda piece: -scores[piece])
    return [(piece[:cut], piece[cut:]) for piece in pieces for cut in range(1, len(piece))
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary]
