"""The tokenizer inside a GGUF file, for byte-level BPE vocabularies.

transformers' own reader ignores ``tokenizer.ggml.pre`` and cuts every BPE vocabulary as GPT-2 does, which gives SmolLM2
other ids wherever white space precedes a digit, and it adds ``<|endoftext|>`` to vocabularies that name no unknown token.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from biomistral.errors import UserError

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type

_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _whole() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _by_digit() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _whole()])


def _by_regex(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": _whole,
    "smollm": _by_digit,
    "llama-bpe": partial(_by_regex, _LLAMA3),
    "qwen2": partial(_by_regex, _QWEN2),
}
"""How text is cut before BPE, by ``tokenizer.ggml.pre``."""


def bpe_tokenizer(fields: dict[str, Any], where: str) -> PreTrainedTokenizerFast:
    """Build the tokenizer that a GGUF file's metadata describes.

    Raises:
        UserError: the file's rule for cutting text is unknown, or its lists do not fit together.
    """
    rule = fields.get("tokenizer.ggml.pre", "gpt-2")
    if rule not in PRE_TOKENIZERS:
        raise UserError(f"{where}: its tokenizer cuts text by the rule '{rule}', which is not known here (known: "
                        f"{', '.join(PRE_TOKENIZERS)}); import the model's Hugging Face folder instead")
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    kinds = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(set(tokens)) != len(tokens) or len(kinds) != len(tokens):
        raise UserError(f"{where}: its token list has {len(tokens)} entries, {len(set(tokens))} different ones and "
                        f"{len(kinds)} types; the file is damaged")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=rule == "llama-bpe"))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[rule]()
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (_CONTROL, _USER_DEFINED):
            added = AddedToken(token, special=kind == _CONTROL, normalized=False)
            (tokenizer.add_special_tokens if kind == _CONTROL else tokenizer.add_tokens)([added])
    special = _special_tokens(fields, tokens)
    if fields.get("tokenizer.ggml.add_bos_token") and "bos_token" in special:
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, vocabulary[bos])])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = fields.get("tokenizer.chat_template")
    return fast


def _special_tokens(fields: dict[str, Any], tokens: list[str]) -> dict[str, str]:
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    found = {ours: fields.get(f"tokenizer.ggml.{theirs}_token_id") for theirs, ours in names.items()}
    return {name: tokens[index] for name, index in found.items() if index is not None}
