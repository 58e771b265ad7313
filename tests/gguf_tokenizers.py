"""Tokenizers of every kind that GGUF has words for, and texts that are awkward to cut."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerFast

from biomistral.models.gguf_rules import RULES
from gguf_models import VOCABULARY, make_pieces
from tiny import make_tokenizer

AWKWARD = ("", " ", "\n", "  two spaces first", "tab\tand \n\n\n lines\r\n  x ", "E11.9, 1234567 0.5e-3 ½ ²", "Ωμέγα ÄÖÜß œ",
           "中文 العربية עברית हिन्दी ไทย", "🩺👩🏽\u200d⚕️\u00a0\u3000\ufeff\u200b", "don't I'LL 'S", "a</s>b <s> c<unk>",
           "<extra> x<extra>", "▁under ▁▁score", "<0x41><0xFF>", "aspirin" * 40, "\x00\x7f\u0085\u2028", "e\u0301")
Change = Callable[[PreTrainedTokenizerFast], None]


def with_tokenizer(pico: Path, out: Path, make: Callable[[Path], Any]) -> Path:
    """The model with another tokenizer."""
    shutil.copytree(pico, out, ignore=shutil.ignore_patterns("tokenizer*", "chat_template*"))
    make(out)
    return out


def byte_level(change: Change) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        make_tokenizer(folder, VOCABULARY)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        change(tokenizer)
        tokenizer.save_pretrained(folder)
    return make


def trained(pre_tokenizer: Any, **model: Any) -> Callable[[Path], None]:
    """Byte-level BPE that cuts text as this does."""
    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        data = json.loads(tokenizer.backend_tokenizer.to_str())
        data["model"] |= model
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(data))
        tokenizer._tokenizer.pre_tokenizer = pre_tokenizer
    return byte_level(change)


def frame(before: list[str], after: list[str]) -> Change:
    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in before + after]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after], special_tokens=special)
    return change


def with_more_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|end of turn|>"]})
    tokenizer.add_tokens([AddedToken("<extra>", normalized=False), AddedToken("HbA1c", normalized=False)])


def with_nfc(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()


KINDS: dict[str, Callable[[Path], Any]] = {
    **{name: trained(rule.pre_tokenizer(), ignore_merges=rule.ignore_merges) for name, rule in RULES.items()},
    "begins": byte_level(frame(["<s>"], [])), "ends": byte_level(frame(["<s>"], ["</s>"])), "more": byte_level(with_more_tokens),
    "nfc": byte_level(with_nfc), "pieces": make_pieces, "pieces without a space": partial(make_pieces, prefix=None),
    **{f"pieces {scheme}": partial(make_pieces, prefix=scheme) for scheme in ("first", "always", "never")},
}
