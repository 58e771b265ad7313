"""From a document's text to token pieces: at most 1,000 words each, BOS before and EOS after (paper, section 3.2)."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomistral.corpus.cleaning.shingles import codes_of
from biomistral.corpus.packing.encoder import Encoder, Ids, Lengths, encoder_for
from biomistral.errors import UserError

_IDEOGRAPHS = ((0x2E80, 0x2FE0), (0x3040, 0x3100), (0x3400, 0xA000), (0xF900, 0xFB00))


@dataclass(frozen=True)
class Pieces:
    """The pieces of several documents: all tokens in a row; of each piece its tokens and UTF-8 bytes; pieces a document."""

    tokens: Ids
    lengths: Lengths
    num_bytes: Lengths
    per_document: Lengths

    def tokens_per_document(self) -> Lengths:
        """Tokens of each document, shape ``(documents,)``."""
        borders = np.concatenate(([0], np.cumsum(self.lengths)))[np.concatenate(([0], np.cumsum(self.per_document)))]
        return np.diff(borders)


@dataclass(frozen=True)
class Packer:
    """An encoder and the policy for the tokens around a piece. Small and plain: it is sent to every worker."""

    encoder: Encoder
    why: str
    """Why the encoder is the one it is."""
    digest: str
    """SHA-256 of the tokenizer, as the training stages compute it too."""
    vocab_size: int
    piece_words: int | None
    bos: int | None
    eos: int | None
    eos_policy: str
    filler: int
    """What fills room that no piece fills."""

    @property
    def dtype(self) -> str:
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    def documents(self, texts: list[str]) -> Pieces:
        """The pieces of some documents; one call of the tokenizer for all."""
        cut = [split_words(text, self.piece_words) for text in texts]
        per_document: Lengths = np.array([len(pieces) for pieces in cut], np.int64)
        flat = [piece for pieces in cut for piece in pieces]
        ids, lengths = self.encoder.encode(flat)
        num_bytes: Lengths = np.array([len(piece.encode()) for piece in flat], np.int64)
        return self._framed(ids, lengths, num_bytes, per_document)

    def num_bytes(self, tokens: npt.NDArray[Any]) -> int:
        """UTF-8 size of the text that some tokens stand for, without BOS and EOS."""
        return len(self.encoder.decode(tokens).encode("utf-8", "replace"))

    def _framed(self, ids: Ids, lengths: Lengths, num_bytes: Lengths, per_document: Lengths) -> Pieces:
        """With BOS before each piece, and EOS after each or after a document's last."""
        assert not len(ids) or ids.max() < self.vocab_size
        ends = np.cumsum(lengths)
        tailed: npt.NDArray[np.bool_] = np.zeros(len(lengths), np.bool_)
        if self.eos is not None:
            tailed[:] = self.eos_policy == "piece"
            tailed[np.cumsum(per_document)[per_document > 0] - 1] = True
        heads = ends - lengths if self.bos is not None else ends[:0]
        # np.insert keeps the order of what goes to one place: the tail of a piece comes before the head of the next
        places = np.concatenate((ends[tailed], heads))
        values = np.concatenate((np.full(int(tailed.sum()), self.eos or 0), np.full(len(heads), self.bos or 0)))
        framed = np.insert(ids, places, values.astype(np.uint32)) if len(places) else ids
        return Pieces(framed, lengths + tailed + (self.bos is not None), num_bytes, per_document)


def packer_for(folder: Path, piece_words: int | None, bos: str, eos: str) -> Packer:
    """The packer of a model folder's tokenizer.

    Raises:
        UserError: the folder has no tokenizer, or the tokenizer has no BOS or EOS where the policy asks for it.
    """
    from biomistral.models.load import load_tokenizer, tokenizer_digest  # with torch: 4 s and 500 MB, which no worker needs

    tokenizer: Any = load_tokenizer(folder)
    digest = tokenizer_digest(tokenizer)
    plain = tokenizer("a")["input_ids"]
    adds_bos = tokenizer.bos_token_id is not None and plain[:1] == [tokenizer.bos_token_id]
    bos_id: int | None = tokenizer.bos_token_id if bos == "always" or (bos == "auto" and adds_bos) else None
    eos_id: int | None = tokenizer.eos_token_id if eos != "never" else None
    if bos == "always" and bos_id is None:
        raise UserError(f"{folder}: its tokenizer has no BOS token; set bos to auto or never")
    if eos != "never" and eos_id is None:
        raise UserError(f"{folder}: its tokenizer has no EOS token; set eos to never")
    encoder, why = encoder_for(tokenizer.backend_tokenizer.to_str())
    return Packer(encoder, why, digest, len(tokenizer), piece_words, bos_id, eos_id, eos,
                  tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0)


@cache
def _word_table() -> npt.NDArray[np.uint8]:
    """Per code point: 0 white space, 1 a visible character, 2 an ideograph, a word by itself."""
    table: npt.NDArray[np.uint8] = np.array([not chr(code).isspace() for code in range(1 << 16)], np.uint8)
    for low, high in _IDEOGRAPHS:
        table[low:high] *= 2
    return table


def split_words(text: str, most: int | None) -> list[str]:
    """The text in pieces of at most ``most`` words (None: whole), each without white space around it; none if empty.

    A word is a run of visible characters, or one ideograph: those languages write no spaces.
    """
    text = text.strip()
    if most is None or len(text) < most:
        return [text] if text else []
    table = _word_table()
    kinds = table[np.minimum(codes_of(text), len(table) - 1)]
    before = np.concatenate((np.zeros(1, np.uint8), kinds[:-1]))
    starts = np.flatnonzero((kinds == 2) | ((kinds == 1) & (before != 1)))[::most].tolist()
    return [text[start:end].rstrip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
