"""Translation models of the encoder-decoder kind: Marian (Opus), NLLB, M2M100 and MADLAD, each told the languages in its way."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from biomistral.errors import UserError
from biomistral.models.load import pick_device, quiet
from biomistral.translation.engine import TEXT, Answer, Deliver, Engine, Piece
from biomistral.translation.engines.local import batches, identity_of
from biomistral.translation.languages import Language, known
from biomistral.translation.reasons import Reason

_MOST_TOKENS = 512


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
        self._vocabulary = set(self._tokenizer.get_vocab())
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
        return next((name for name in names if name in self._vocabulary), None)

    def can(self, source: str, target: str) -> bool:
        if self._marian:
            ends = (self._tokenizer.source_lang, self._tokenizer.target_lang)
            return all(end in (code, known()[code].three) for code, end in zip((source, target), ends, strict=True)) or (
                ends[0] in (source, known()[source].three) and self._mark(known()[target]) is not None)
        return all(self._mark(known()[code]) is not None for code in (source, target))

    def translate(self, pieces: Sequence[Piece], deliver: Deliver) -> None:
        for direction in dict.fromkeys((piece.source, piece.target) for piece in pieces):
            own = [piece for piece in pieces if (piece.source, piece.target) == direction]
            for batch in batches([len(piece.fields[TEXT]) for piece in own]):
                texts = [own[number].fields[TEXT] for number in batch]
                for number, answer in zip(batch, self._batch(texts, *direction), strict=True):
                    deliver(own[number], answer)

    def _batch(self, texts: Sequence[str], source: str, target: str) -> list[Answer]:
        here, there = self._mark(known()[source]), self._mark(known()[target])
        more = {}
        if there is not None and (self._marian or there.startswith("<2")):
            texts = [f"{there} {text}" for text in texts]
        elif there is not None:
            self._tokenizer.src_lang = (here or "").strip("_") if (here or "").startswith("__") else here
            more = {"forced_bos_token_id": self._tokenizer.convert_tokens_to_ids(there)}
        encoded = self._tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=_MOST_TOKENS)
        encoded = {name: value.to(self._device) for name, value in encoded.items() if name in ("input_ids", "attention_mask")}
        longest = 2 * encoded["input_ids"].shape[1] + 20
        with torch.inference_mode():
            made = self._model.generate(**encoded, **more, do_sample=False, max_new_tokens=min(longest, _MOST_TOKENS))
        return [self._answer(row.tolist()) for row in made]

    def _answer(self, tokens: Sequence[int]) -> Answer:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True).strip()
        faults = [] if text else [Reason("no_answer", "", "the model said nothing")]
        if self._tokenizer.eos_token_id not in tokens[1:]:
            faults.append(Reason("cut_off", "", f"no end after {len(tokens)} tokens"))
        return Answer({TEXT: text}, tuple(faults))
