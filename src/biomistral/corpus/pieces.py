"""From a document's text to token pieces: at most 1,000 words each, BOS before and EOS after (paper, section 3.2)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomistral.errors import UserError
from biomistral.models.load import load_tokenizer, tokenizer_digest

# a run of visible characters, or one ideograph: those languages write no spaces
_IDEOGRAPHS = r"\u2e80-\u2fdf\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")


@dataclass(frozen=True)
class Piece:
    """Token ids of one piece, shape ``(tokens,)``, and the UTF-8 size of its text."""

    tokens: npt.NDArray[np.uint32]
    num_bytes: int


class Packer:
    """A tokenizer and the policy for the tokens around a piece.

    Raises:
        UserError: the folder has no tokenizer, or the tokenizer has no BOS or EOS where the policy asks for it.
    """

    def __init__(self, folder: Path, piece_words: int | None, bos: str, eos: str) -> None:
        self._tokenizer: Any = load_tokenizer(folder)
        self._piece_words, self._eos_policy = piece_words, eos
        plain = self._tokenizer("a")["input_ids"]
        adds_bos = self._tokenizer.bos_token_id is not None and plain[:1] == [self._tokenizer.bos_token_id]
        self.bos: int | None = self._tokenizer.bos_token_id if bos == "always" or (bos == "auto" and adds_bos) else None
        self.eos: int | None = self._tokenizer.eos_token_id if eos != "never" else None
        if bos == "always" and self.bos is None:
            raise UserError(f"{folder}: its tokenizer has no BOS token; set bos to auto or never")
        if eos != "never" and self.eos is None:
            raise UserError(f"{folder}: its tokenizer has no EOS token; set eos to never")
        self.vocab_size = len(self._tokenizer)

    @property
    def dtype(self) -> str:
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @property
    def filler(self) -> int:
        """What fills the only block of a split that is shorter than a block."""
        fallback = self._tokenizer.eos_token_id
        return int(fallback) if fallback is not None else 0

    def digest(self) -> str:
        """SHA-256 of the tokenizer, as the training stages compute it too."""
        return tokenizer_digest(self._tokenizer)

    def documents(self, texts: list[str]) -> Iterator[list[Piece]]:
        """The pieces of each text; one call of the tokenizer for all."""
        cut = [split_words(text, self._piece_words) for text in texts]
        flat = [piece for pieces in cut for piece in pieces]
        encoded = iter(self._encode(flat))
        for pieces in cut:
            yield [self._piece(piece, next(encoded), last=number == len(pieces) - 1) for number, piece in enumerate(pieces)]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # split_special_tokens: "</s>" in an article is four characters, not the end of a text
        ids: list[list[int]] = self._tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False,
            return_token_type_ids=False, verbose=False)["input_ids"]
        return ids

    def _piece(self, text: str, ids: list[int], last: bool) -> Piece:
        head = [] if self.bos is None else [self.bos]
        tail = [self.eos] if self.eos is not None and (last or self._eos_policy == "piece") else []
        return Piece(np.array([*head, *ids, *tail], np.uint32), len(text.encode("utf-8", "surrogatepass")))

    def num_bytes(self, tokens: npt.NDArray[Any]) -> int:
        """UTF-8 size of the text that some tokens stand for, without BOS and EOS."""
        return len(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True).encode("utf-8", "replace"))


def split_words(text: str, most: int | None) -> list[str]:
    """The text in pieces of at most ``most`` words (None: whole), each without white space around it; none if empty."""
    places = [match.span() for match in _WORD.finditer(text)]
    size = most or max(1, len(places))
    return [text[places[start][0]:places[min(start + size, len(places)) - 1][1]] for start in range(0, len(places), size)]
