"""How byte-level BPE vocabularies cut text before they merge: llama.cpp's rules (``tokenizer.ggml.pre``) as tokenizers' objects.

A rule's name says two things to llama.cpp: how text is cut, and whether a piece that is a token already is taken without its
merges. The same table finds the name of a tokenizer's rule when a file is written, and the rule of a name when one is read.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SEED = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}{1}").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_WORD[0]}|{_WORD[1]}|\p{{N}}|{_REST}"
_SHORTENED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = rf"{_WORD[0]}{_SHORTENED}|{_WORD[1]}{_SHORTENED}|\p{{N}}{{1,3}}|{_REST}"


def _whole() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _by_digit() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _whole()])


def _by_regex(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@dataclass(frozen=True)
class Rule:
    """How text is cut, and whether a piece that is a token is taken whole."""

    pre_tokenizer: Callable[[], Any]
    ignore_merges: bool = False
    aliases: tuple[str, ...] = ()
    """Other names of llama.cpp's for the same."""


RULES: dict[str, Rule] = {
    "gpt-2": Rule(_whole, aliases=("default", "phi-2", "olmo", "mpt", "jais", "trillion", "gigachat")),
    "smollm": Rule(_by_digit, aliases=("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")),
    "llama-bpe": Rule(partial(_by_regex, _LLAMA3), ignore_merges=True, aliases=("llama3", "llama-v3", "falcon3", "pixtral")),
    "dbrx": Rule(partial(_by_regex, _LLAMA3), aliases=("smaug-bpe",)),
    "qwen2": Rule(partial(_by_regex, _QWEN2), aliases=("stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan")),
    "seed-coder": Rule(partial(_by_regex, _SEED)),
    "tekken": Rule(partial(_by_regex, _TEKKEN), ignore_merges=True),
    "gpt-4o": Rule(partial(_by_regex, _GPT4O), aliases=("llama4", "kanana2")),
}
"""By the name that is written."""

_BY_NAME = {name: rule for written, rule in RULES.items() for name in (written, *rule.aliases)}


def rule_named(name: str) -> Rule | None:
    """The rule behind a name that a file states; None if it is not known here."""
    return _BY_NAME.get(name)


def rules_like(pre_tokenizer: dict[str, Any] | None) -> Iterator[tuple[str, Rule]]:
    """The rules that cut text as this ``pre_tokenizer`` of a ``tokenizer.json`` does."""
    for name, rule in RULES.items():
        if _essence(_described(rule.pre_tokenizer())) == _essence(pre_tokenizer):
            yield name, rule


def _described(pre_tokenizer: Any) -> dict[str, Any]:
    """A pre-tokenizer as ``tokenizer.json`` holds it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    found: dict[str, Any] = json.loads(tokenizer.to_str())["pre_tokenizer"]
    return found


def _essence(part: Any) -> Any:
    """A pre-tokenizer without what does not move a cut: offsets, and whether pieces or what lies between them is matched."""
    if isinstance(part, list):
        return [_essence(item) for item in part]
    if not isinstance(part, dict):
        return part
    kept = {key: _essence(value) for key, value in part.items() if key != "trim_offsets"}
    if (kept.get("behavior"), kept.get("invert")) == ("Removed", True):  # these patterns leave nothing between the pieces
        kept |= {"behavior": "Isolated", "invert": False}
    return kept
