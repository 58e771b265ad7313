"""Models converted for CTranslate2, several times as fast on a CPU; their tokenizer lies in the same folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from biomistral.errors import UserError
from biomistral.files import content_digest
from biomistral.languages import known
from biomistral.translation.engine import TextEngine
from biomistral.translation.engines.build import Means
from biomistral.translation.engines.limits import MARKS, MOST_TOKENS
from biomistral.translation.settings import Translator


def make(translator: Translator, means: Means) -> "CTranslate":
    assert translator.model is not None
    return CTranslate(means.work.locate(translator.model), means.work.machine.device)


def _how_to_get_one(folder: Path) -> str:
    """M2M100's tokenizer of transformers 5 keeps the 100 languages where CTranslate2's converter (4.8) does not look for them."""
    about = folder / "tokenizer_config.json"
    if about.is_file() and "M2M100Tokenizer" in about.read_text(encoding="utf-8"):
        return ("an M2M100, on which CTranslate2's own converter fails (its vocabulary lacks the languages); convert an NLLB "
                "model instead, or use this one with --engine transformers")
    return "convert a model first (ct2-transformers-converter)"


class CTranslate(TextEngine):
    """An encoder-decoder in CTranslate2's format, with Hugging Face's tokenizer files beside it (``--copy_files`` of the
    converter). Languages are named as NLLB, M2M100 or MADLAD name them; a model without such tokens is taken to translate
    ahead only."""

    def __init__(self, folder: Path, device: str) -> None:
        """
        Raises:
            UserError: ctranslate2 is not installed, or the folder is not one of its models.
        """
        try:
            import ctranslate2
        except ImportError as error:
            raise UserError("engine ctranslate2: not installed; pip install 'biomistral[ctranslate2]'") from error
        from transformers import AutoTokenizer

        if not (folder / "model.bin").is_file():
            raise UserError(f"{folder}: holds no model.bin; {_how_to_get_one(folder)}")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = ctranslate2.Translator(str(folder), device="cpu" if device == "auto" else device.partition(":")[0])
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{folder}: cannot be loaded ({' '.join(str(error).split())[:200]})") from error
        self.identity = {"engine": "ctranslate2", "version": ctranslate2.__version__, "model": folder.name,
                         "content": content_digest(folder)[:16]}

    def fits(self, text: str) -> bool:
        if not super().fits(text):
            return False
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) + MARKS <= MOST_TOKENS

    def _mark(self, code: str) -> str | None:
        names = (known()[code].nllb, f"__{code}__", f"<2{code}>", f">>{known()[code].three}<<")
        unknown = (None, self._tokenizer.unk_token_id)  # asked by name: M2M100 has its languages outside its vocabulary
        return next((name for name in names if self._tokenizer.convert_tokens_to_ids(name) not in unknown), None)

    def can(self, source: str, target: str) -> bool:
        one_way = getattr(self._tokenizer, "source_lang", None) in (None, source, known()[source].three)
        return self._mark(target) is not None or (self._mark("en") is None and one_way and source == "en")

    def translations(self, texts: Sequence[str], source: str, target: str) -> Iterable[str]:
        mark = self._mark(target) or ""
        ahead = mark if mark.startswith(("<2", ">>")) else ""
        if mark and not ahead:
            self._tokenizer.src_lang = (self._mark(source) or "").strip("_")
        rows = [self._tokenizer.convert_ids_to_tokens(self._tokenizer(f"{ahead} {text}".strip())["input_ids"]) for text in texts]
        prefixes = [[mark]] * len(rows) if mark and not ahead else None
        for found in self._model.translate_iterable(rows, prefixes, max_batch_size=32, max_decoding_length=MOST_TOKENS):
            tokens = [token for token in found.hypotheses[0] if token != mark]
            yield self._tokenizer.decode(self._tokenizer.convert_tokens_to_ids(tokens), skip_special_tokens=True)
