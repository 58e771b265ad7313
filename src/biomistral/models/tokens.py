"""Tokenizers as questions need them. What `transformers` makes of a tokenizer's files is kept, and from then on read without it.

Importing what its tokenizers import costs 2.5 CPU seconds and 150 MB; `tokenizers`, which does their work, a hundredth of that.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from biomistral.files import cache_folder, file_digest, write_json, write_text
from biomistral.memory import give_back_freed_memory
from biomistral.models.folder import TOKENIZER_PATTERNS
from biomistral.models.load import load_tokenizer
from biomistral.recipe import canonical_hash

_BACKEND, _IDS = "tokenizer.json", "ids.json"
_PROBES = ("", "a", " a", "A\n\nB", "Naïve  façade\t4.5 mg", "患者は発熱", "حمى", "</s><s>", "<|im_end|>", "\u200d👩\u200d⚕️ x")
"""Texts whose ids have to be the same before a tokenizer is kept."""


class Tokenizer(Protocol):
    """What is asked of a tokenizer: one of `transformers`, or a `KeptTokenizer`."""

    name_or_path: Any
    chat_template: Any

    @property
    def bos_token_id(self) -> Any: ...

    @property
    def eos_token_id(self) -> Any: ...

    def __call__(self, text: Any, *, add_special_tokens: bool = ..., return_attention_mask: bool = ...) -> Any: ...

    def decode(self, token_ids: Any, skip_special_tokens: bool = ...) -> Any: ...

    def apply_chat_template(self, conversation: Any, *, tokenize: bool = ..., add_generation_prompt: bool = ...) -> Any: ...


class KeptTokenizer:
    """A tokenizer of the `tokenizers` library as `transformers` had made it, without its chat template."""

    chat_template = None

    def __init__(self, name: Path, backend: Path, bos: int | None, eos: int | None) -> None:
        """``backend``: the file that `tokenizers` reads."""
        self.name_or_path, self.bos_token_id, self.eos_token_id = str(name), bos, eos
        self._backend = _read(backend)

    def __call__(self, text: str | Sequence[str], *, add_special_tokens: bool = True,
                 return_attention_mask: bool = False) -> dict[str, Any]:
        """The ids of a text, or of several, as ``input_ids``; no attention mask, which would be all ones."""
        one = isinstance(text, str)
        found = self._backend.encode_batch([text] if one else list(text), add_special_tokens=add_special_tokens)
        return {"input_ids": found[0].ids if one else [own.ids for own in found]}

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return str(self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(self, conversation: Any, *, tokenize: bool = False, add_generation_prompt: bool = True) -> Any:
        raise AssertionError("chat templates are rendered by transformers")


@lru_cache(maxsize=1)
def _read(file: Path) -> Any:
    """What is kept under this name, once for all who tokenise: 30 MB, and as much on the way."""
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(file))
    give_back_freed_memory()
    return backend


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder for texts without turns.

    Raises:
        UserError: see `load_tokenizer`.
    """
    kept = cache_folder() / "tokenizers" / _key(folder)
    if (kept / _IDS).is_file():
        return KeptTokenizer(folder, kept / _BACKEND, **json.loads((kept / _IDS).read_text(encoding="utf-8")))
    tokenizer: Tokenizer = load_tokenizer(folder)
    if hasattr(tokenizer, "backend_tokenizer") and not getattr(tokenizer, "split_special_tokens", False):
        with suppress(OSError):  # a home that cannot be written: loaded the long way again next time
            _keep(kept, tokenizer)
    return tokenizer


def _key(folder: Path) -> str:
    """Of all that decides what `transformers` makes of a folder's tokenizer: its files, the model's kind, who reads them."""
    patterns = (*TOKENIZER_PATTERNS, "config.json")
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    versions = [metadata.version(name) for name in ("transformers", "tokenizers")]
    return canonical_hash([{path.name: file_digest(path) for path in files}, versions])[:40]


def _keep(kept: Path, tokenizer: Any) -> None:
    """Write down what a `KeptTokenizer` is made of; its ids last, and only where it does what the tokenizer does."""
    kept.mkdir(parents=True, exist_ok=True)
    plain = {**json.loads(tokenizer.backend_tokenizer.to_str()), "padding": None, "truncation": None}
    write_text(kept / _BACKEND, json.dumps(plain, ensure_ascii=False))
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    if _answers(KeptTokenizer(kept, kept / _BACKEND, **ids)) == _answers(tokenizer):
        write_json(kept / _IDS, ids)


def _answers(tokenizer: Tokenizer) -> list[Any]:
    ids = [tokenizer(list(_PROBES), add_special_tokens=special)["input_ids"] for special in (True, False)]
    words = [tokenizer.decode(own, skip_special_tokens=special) for rows in ids for own in rows for special in (True, False)]
    return [*ids, *words, tokenizer(_PROBES[1])["input_ids"], tokenizer.decode([ids[0][3][-1]])]
