"""Translation models of the encoder-decoder kind: Marian (Opus), NLLB, M2M100 and MADLAD, each told the languages in its way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from biomistral.errors import UserError
from biomistral.languages import Language, known
from biomistral.models.load import pick_device, quiet
from biomistral.translation.engine import TEXT, Answer, Deliver, Engine, Piece
from biomistral.translation.engines.limits import MARKS, MOST_TOKENS
from biomistral.translation.engines.local import batches, identity_of
from biomistral.translation.reasons import Reason

_BATCH_TOKENS = 1500
"""Tokens of a batch, padding included."""

_STEP = 16


def _most(row: Sequence[int]) -> int:
    """Tokens that the translation of a row may have: by its own length, so that it does not depend on what is beside it. (In
    batches of 512 for all, one text in three of models without an end came out otherwise than alone.)"""
    return 2 * _STEP * -(-len(row) // _STEP) + 20


class Seq2Seq(Engine):
    """One model; beams as its generation configuration has them, nothing is drawn."""

    def __init__(self, folder: Path, device: str) -> None:
        """
        Raises:
            UserError: the model cannot be loaded, or does not say which languages it translates.
        """
        quiet()
        self.identity = identity_of(folder)
        self._device = pick_device(device)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True).to(self._device).eval()
        except (OSError, ValueError, ImportError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: cannot be loaded as a translation model ({why})") from error
        self._model.generation_config.forced_eos_token_id = None  # it would put an end where a text is cut off
        self._limit = min(MOST_TOKENS, getattr(self._model.config, "max_position_embeddings", MOST_TOKENS))
        self._marian = self._model.config.model_type == "marian"
        ends = (getattr(self._tokenizer, "source_lang", None), getattr(self._tokenizer, "target_lang", None))
        if self._marian and None in ends:
            raise UserError(f"{folder}: its tokenizer_config.json does not say source_lang and target_lang; add them")
        if not self._marian and self._mark(known()["en"]) is None:
            raise UserError(f"{folder}: a {self._model.config.model_type} without tokens for languages (NLLB's eng_Latn, "
                            "M2M100's __en__, MADLAD's <2en>): nobody knows how to ask it")

    def _mark(self, language: Language) -> str | None:
        """The token that names a language to this model."""
        names = (f">>{language.three}<<", f">>{language.code}<<") if self._marian else (
            language.nllb, f"__{language.code}__", f"<2{language.code}>")
        unknown = (None, self._tokenizer.unk_token_id)  # asked by name: M2M100 has its languages outside its vocabulary
        return next((name for name in names if self._tokenizer.convert_tokens_to_ids(name) not in unknown), None)

    def fits(self, text: str) -> bool:
        if not super().fits(text):
            return False
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) + MARKS <= self._limit

    def can(self, source: str, target: str) -> bool:
        if self._marian:
            ends = (self._tokenizer.source_lang, self._tokenizer.target_lang)
            return all(end in (code, known()[code].three) for code, end in zip((source, target), ends, strict=True)) or (
                ends[0] in (source, known()[source].three) and self._mark(known()[target]) is not None)
        return all(self._mark(known()[code]) is not None for code in (source, target))

    def translate(self, pieces: Sequence[Piece], deliver: Deliver) -> None:
        for direction in dict.fromkeys((piece.source, piece.target) for piece in pieces):
            own = [piece for piece in pieces if (piece.source, piece.target) == direction]
            more = self._asked(*direction)
            rows = self._rows([piece.fields[TEXT] for piece in own], *direction)
            mosts = [min(_most(row), self._limit) for row in rows]
            for most in sorted(set(mosts), reverse=True):
                alike = [number for number, own_most in enumerate(mosts) if own_most == most]
                for batch in batches([len(rows[number]) for number in alike], _BATCH_TOKENS):
                    numbers = [alike[place] for place in batch]
                    for number, tokens in zip(numbers, self._made([rows[one] for one in numbers], most, more), strict=True):
                        deliver(own[number], self._answer(tokens))

    def _asked(self, source: str, target: str) -> dict[str, Any]:
        """What `generate` is told of the languages, and the tokenizer of the source's."""
        here, there = self._mark(known()[source]) or "", self._mark(known()[target])
        if there is None or self._marian or there.startswith("<2"):
            return {}
        self._tokenizer.src_lang = here.strip("_") if here.startswith("__") else here
        return {"forced_bos_token_id": self._tokenizer.convert_tokens_to_ids(there)}

    def _rows(self, texts: Sequence[str], source: str, target: str) -> list[list[int]]:
        there = self._mark(known()[target]) or ""
        ahead = f"{there} " if there and (self._marian or there.startswith("<2")) else ""
        found: list[list[int]] = self._tokenizer([ahead + text for text in texts])["input_ids"]
        return found

    def _made(self, rows: Sequence[list[int]], most: int, more: dict[str, Any]) -> list[list[int]]:
        """New tokens for each row, padded together: as many at most as one alone may have."""
        encoded = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        encoded = {name: encoded[name].to(self._device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            made: torch.Tensor = self._model.generate(**encoded, **more, do_sample=False, max_new_tokens=most)
        return [list(row) for row in made.tolist()]

    def _answer(self, tokens: Sequence[int]) -> Answer:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True).strip()
        faults = [] if text else [Reason("no_answer", "", "the model said nothing")]
        if self._tokenizer.eos_token_id not in tokens[1:]:
            faults.append(Reason("cut_off", "", f"no end after {len(tokens)} tokens"))
        return Answer({TEXT: text}, tuple(faults))
