"""The tokenizer inside a GGUF file, byte-level BPE or SentencePiece-like, as a fast tokenizer of transformers.

transformers' own reader ignores ``tokenizer.ggml.pre`` and cuts every BPE vocabulary as GPT-2 does, which gives SmolLM2
other ids wherever white space precedes a digit, and it adds ``<|endoftext|>`` to vocabularies that name no unknown token.
"""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from biomistral.errors import UserError
from biomistral.models.gguf_pieces import PLAIN, SPACE, merges_of
from biomistral.models.gguf_rules import RULES, rule_named

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Values of ``tokenizer.ggml.token_type``."""


def tokenizer_of(fields: dict[str, Any], where: str) -> PreTrainedTokenizerFast:
    """Build the tokenizer that a GGUF file's metadata describes, with the special tokens and the chat template it states.

    Raises:
        UserError: the kind of vocabulary or its rule for cutting text is unknown, or its lists do not fit together.
    """
    kind = fields.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise UserError(f"{where}: its tokenizer is of kind '{kind}'; gpt2 (byte-level BPE) and llama (SentencePiece-like) can "
                        "be read: import the model's Hugging Face folder instead")
    tokens = fields["tokenizer.ggml.tokens"]
    kinds = fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(set(tokens)) != len(tokens) or len(kinds) != len(tokens):
        raise UserError(f"{where}: its token list has {len(tokens)} entries, {len(set(tokens))} different ones and {len(kinds)} "
                        "types; the file is damaged")
    tokenizer = (_byte_level if kind == "gpt2" else _pieces)(fields, tokens, kinds, where)
    for token, token_kind in zip(tokens, kinds, strict=True):
        if token_kind in (CONTROL, USER_DEFINED):
            added = AddedToken(token, special=token_kind == CONTROL, normalized=False)
            (tokenizer.add_special_tokens if token_kind == CONTROL else tokenizer.add_tokens)([added])
    special = _special_tokens(fields, tokens)
    _frame(tokenizer, fields, special, kind == "llama")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = fields.get("tokenizer.chat_template")
    return fast


def _byte_level(fields: dict[str, Any], tokens: list[str], kinds: list[int], where: str) -> Tokenizer:
    name = fields.get("tokenizer.ggml.pre", "gpt-2")
    rule = rule_named(name)
    if rule is None:
        raise UserError(f"{where}: its tokenizer cuts text by the rule '{name}', which is not known here (known: "
                        f"{', '.join(RULES)}); import the model's Hugging Face folder instead")
    pairs = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=rule.ignore_merges))
    tokenizer.pre_tokenizer = rule.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces(fields: dict[str, Any], tokens: list[str], kinds: list[int], where: str) -> Tokenizer:
    """As llama.cpp merges: whichever two neighbours make the piece of the highest score, and bytes for what is no piece."""
    scores = fields.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise UserError(f"{where}: its token list has {len(tokens)} entries and {len(scores or [])} scores; the file is damaged")
    plain = {token: score for token, score, kind in zip(tokens, scores, kinds, strict=True) if kind == NORMAL}
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges_of(plain, vocabulary), unk_token=unknown, fuse_unk=True,
                                     byte_fallback=True))
    prefixed = fields.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(PLAIN, SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefixed else spaces
    parts: list[Any] = [decoders.Replace(SPACE, PLAIN), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(PLAIN, 1, 0)] if prefixed else parts)
    return tokenizer


def _special_tokens(fields: dict[str, Any], tokens: list[str]) -> dict[str, str]:
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    found = {ours: fields.get(f"tokenizer.ggml.{theirs}_token_id") for theirs, ours in names.items()}
    return {name: tokens[index] for name, index in found.items() if index is not None}


def _frame(tokenizer: Tokenizer, fields: dict[str, Any], special: dict[str, str], bos_by_default: bool) -> None:
    """Have the tokens added before and after a text that the file says are."""
    stated = {"bos_token": fields.get("tokenizer.ggml.add_bos_token", bos_by_default),
              "eos_token": fields.get("tokenizer.ggml.add_eos_token", False)}
    before, after = ([special[name]] if added and name in special else [] for name, added in stated.items())
    if before or after:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after], pair=[*before, "$A", "$B", *after],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (*before, *after)])
