"""Texts to token ids: by gigatoken where its ids are proved to be the Hugging Face tokenizer's, else by that tokenizer.

gigatoken is 13 to 25 times faster (perf/tokenizers_equal.py: 12 to 36 million tokens a second and core). It is trusted for one
vocabulary only after it gave equal ids for a set of hard texts, and it is checked on one text in 256 all along.
"""

import json
import unicodedata
import zlib
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from biomistral.corpus.cleaning.shingles import codes_of

Ids: TypeAlias = npt.NDArray[np.uint32]
Lengths: TypeAlias = npt.NDArray[np.int64]

CHECKED_ONE_IN = 256
HARD_TEXTS = (
    "", " ", "  ", "\n", "\n\n \n", "a", " a", "a ", "a  b   c", "tab\tand\r\nline\n\n\nends  ", "don't I'LL we've it's 'tis",
    "1 12 123 1234 12345678901234567890 1,000.50 3.14e-10 x2 2x 5mg/kg p<0.05 10^6", "IC50 TNF-\u03b1 \u03b2-catenin Ca^2+",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m \u0130stanbul \u00df \ufb01 \u017f \u01c5 \u2126",
    "\u4e2d\u6587\u5206\u8bcd\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001\ud55c\uad6d\uc5b4",
    "\u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \ufdfa \u0967 \u0663\u0664 \u00b2\u00bd\u2163",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001d6fc\U00020000 \u200b\u200d\ufeff \u00a0\u2009\u3000 end",
    "</s><s><unk><|endoftext|><|im_start|>user [INST] <pad>", "a" * 300, "\u4e00" * 200, " " * 100 + "x", "\u2581 \u2581a",
    "Results | 12 | 3.5 (2.1\u20134.9) | <0.001\n | 7 | -\n\n- item; (see Fig. 2A)... \u2018quoted\u2019 \u201ctext\u201d \u2014",
    "\ufffd\ufffe\U0010ffff \ue000 \x7f \x85 \u2028 \u2029 \u0e01\u0e33 \u0915\u094d\u0937")


class TokenizersDifferError(Exception):
    """gigatoken gave other ids than the Hugging Face tokenizer; the message says for which text."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer as its JSON, so that it can be sent to a worker; ``fast``: through gigatoken, checked as it goes."""

    tokenizer: str
    fast: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "fast": self.fast}

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """Ids of all texts, one after another, and how many each has. No special token is added or recognised.

        Raises:
            TokenizersDifferError: a text that was checked has other ids in the Hugging Face tokenizer.
        """
        if not self.fast or not texts:
            return self._slow(texts)
        ids, lengths = self._gigatoken.encode(texts)
        ends = np.cumsum(lengths)
        odd = {int(np.searchsorted(ends, place, "right")) for place in np.flatnonzero(ids >= self._size)}
        if odd:  # a byte the vocabulary lacks: only the Hugging Face tokenizer says what becomes of it
            ids, lengths = self._mended(texts, ids, lengths, odd)
            ends = np.cumsum(lengths)
        checked = [number for number, text in enumerate(texts) if zlib.crc32(text.encode()) % CHECKED_ONE_IN == 0]
        self._check([texts[number] for number in checked],
                    [ids[ends[number] - lengths[number]:ends[number]] for number in checked])
        return ids, lengths

    def _mended(self, texts: list[str], ids: Ids, lengths: Lengths, odd: set[int]) -> tuple[Ids, Lengths]:
        parts = np.split(ids, np.cumsum(lengths)[:-1])
        for number in odd:
            parts[number] = self._slow([texts[number]])[0]
        return np.concatenate(parts), np.array([len(part) for part in parts], np.int64)

    def _check(self, texts: list[str], found: list[Ids]) -> None:
        expected, lengths = self._slow(texts)
        for text, ours, theirs in zip(texts, found, np.split(expected, np.cumsum(lengths)[:-1]), strict=False):
            if not np.array_equal(ours, theirs):
                raise TokenizersDifferError(f"other ids for the text that begins {text[:60]!r}")

    def _slow(self, texts: list[str]) -> tuple[Ids, Lengths]:
        encoded = self._reference.encode_batch_fast(texts, add_special_tokens=False) if texts else []
        lists = [each.ids for each in encoded]
        flat = np.concatenate([np.array(ids, np.uint32) for ids in lists]) if lists else np.zeros(0, np.uint32)
        return flat, np.array([len(ids) for ids in lists], np.int64)

    def decode(self, ids: Ids) -> str:
        """The text of some ids, special tokens left out."""
        return str(self._reference.decode(ids.tolist(), skip_special_tokens=True))

    @cached_property
    def _reference(self) -> Any:
        tokenizer = Tokenizer.from_str(self.tokenizer)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # "</s>" in an article is four characters, not the end of a text
        return tokenizer

    @cached_property
    def _size(self) -> int:
        """Ids from here on are none of the vocabulary's."""
        return int(max(self._reference.get_vocab(with_added_tokens=True).values())) + 1

    @cached_property
    def _gigatoken(self) -> "_Gigatoken":
        return _Gigatoken(self.tokenizer)


class _Gigatoken:
    """gigatoken for one tokenizer.

    Two things it refuses are put before it in another form. A byte-level vocabulary that lacks tokens for some bytes gets
    them with ids past its end, which `Encoder.encode` looks for. Digits that stand alone (SmolLM2's rule) are cut out by
    numpy beforehand: each is a text of its own, and so is what lies between.

    Raises:
        ValueError, RuntimeError: it does not know this kind of tokenizer.
        ImportError: it is not installed.
    """

    def __init__(self, tokenizer: str) -> None:
        import gigatoken

        data = json.loads(tokenizer)
        added = data["added_tokens"]
        data["added_tokens"] = [token for token in added if not token["special"]]
        data["padding"] = data["truncation"] = data["post_processor"] = None
        steps = (data["pre_tokenizer"] or {}).get("pretokenizers") or [data["pre_tokenizer"]]
        self._digits = len(steps) == 2 and steps[0]["type"] == "Digits" and bool(steps[0]["individual_digits"])
        if self._digits:
            data["pre_tokenizer"] = steps[1]
        if steps[-1] is not None and steps[-1]["type"] == "ByteLevel":
            vocabulary = data["model"]["vocab"]
            first = 1 + max(*vocabulary.values(), *(token["id"] for token in added), 0)
            lacking = sorted(letter for letter in ByteLevel.alphabet() if letter not in vocabulary)
            vocabulary.update({letter: first + number for number, letter in enumerate(lacking)})
        self._tokenizer = gigatoken.Tokenizer.from_json(json.dumps(data))

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """Ids of all texts and how many each has."""
        if not self._digits:
            return self._flat(texts)
        data, borders, first = _around_digits(texts)
        ids, lengths = self._flat(_byte_strings(data, borders))
        return ids, np.diff(np.concatenate(([0], np.cumsum(lengths)))[first])

    def _flat(self, texts: Any) -> tuple[Ids, Lengths]:
        import awkward

        encoded = self._tokenizer.encode_batch(texts, parallel=False)
        return np.asarray(awkward.flatten(encoded), np.uint32), np.asarray(awkward.num(encoded), np.int64)


def _byte_strings(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Any:
    """``data[offsets[i]:offsets[i + 1]]`` for all i as an awkward array of byte strings, nothing copied."""
    import awkward

    content = awkward.contents.NumpyArray(data, parameters={"__array__": "byte"})
    index = awkward.index.Index64(offsets.astype(np.int64))
    return awkward.Array(awkward.contents.ListOffsetArray(index, content, parameters={"__array__": "bytestring"}))


def _around_digits(texts: list[str]) -> tuple[npt.NDArray[np.uint8], Lengths, Lengths]:
    """UTF-8 bytes of all texts; where they are cut so that each number stands alone; each text's first cut, and the last."""
    encoded = [text.encode() for text in texts]
    data = np.frombuffer(b"".join(encoded), np.uint8)
    starts = np.cumsum([0, *map(len, encoded)])
    cuts: npt.NDArray[np.bool_] = np.zeros(len(data) + 1, np.bool_)
    digits = np.flatnonzero(data - np.uint8(48) < 10)  # bytes below "0" wrap around to large ones
    cuts[starts] = cuts[digits] = cuts[digits + 1] = True
    if len(data) > sum(map(len, texts)):
        for places in _other_numbers("".join(texts)):
            cuts[places] = True
    borders = np.flatnonzero(cuts)
    return data, borders, np.searchsorted(borders, starts)


@cache
def _number_table() -> npt.NDArray[np.bool_]:
    """Which code points beyond ASCII are numbers (Unicode categories Nd, Nl, No), as the Digits pre-tokenizer asks."""
    return np.array([code > 0x7F and unicodedata.category(chr(code))[0] == "N" for code in range(0x20000)], np.bool_)


def _other_numbers(text: str) -> tuple[Lengths, Lengths]:
    """Where numbers beyond ASCII start and end in the text's UTF-8 bytes."""
    codes = codes_of(text)
    found = np.flatnonzero(_number_table().take(codes, mode="clip"))
    wide = np.flatnonzero(codes >= 0x80)
    more = np.cumsum(1 + (codes[wide] >= 0x800).astype(np.int64) + (codes[wide] >= 0x10000))
    before = np.concatenate((np.zeros(1, np.int64), more))  # bytes more than characters, up to each wide character
    return found + before[np.searchsorted(wide, found)], found + 1 + before[np.searchsorted(wide, found, "right")]


def encoder_for(tokenizer: str) -> tuple[Encoder, str]:
    """The fastest encoder whose ids are right, and why it is that one, in words for the manifest."""
    fast = Encoder(tokenizer, fast=True)
    try:
        ids, lengths = fast.encode(list(HARD_TEXTS))
        fast._check(list(HARD_TEXTS), np.split(ids, np.cumsum(lengths)[:-1]))
    except ImportError:
        return Encoder(tokenizer), "tokenizers: gigatoken is not installed (extra 'fast')"
    except (ValueError, RuntimeError, TypeError) as error:
        return Encoder(tokenizer), f"tokenizers: gigatoken does not know this tokenizer ({str(error).splitlines()[0]})"
    except TokenizersDifferError as error:
        return Encoder(tokenizer), f"tokenizers: gigatoken gives {error}"
    return fast, f"gigatoken: ids equal on {len(HARD_TEXTS)} hard texts; one text in {CHECKED_ONE_IN} of the corpus is checked"
