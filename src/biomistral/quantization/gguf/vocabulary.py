"""A tokenizer as GGUF fields: pieces, scores or merges, token types, special tokens, chat template.

All is read off the tokenizer's own JSON, and nothing off a model's name. What GGUF has no words for is refused.
"""

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.models.gguf_pieces import PLAIN, SPACE, merges_of
from biomistral.models.gguf_rules import rules_like
from biomistral.models.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

_SPECIAL = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
_BYTES = [f"<0x{number:02X}>" for number in range(256)]


def vocabulary_fields(tokenizer: PreTrainedTokenizerBase, rows: int, where: object) -> dict[str, Any]:
    """The ``tokenizer.*`` fields of a model whose embeddings have ``rows`` rows.

    Raises:
        UserError: GGUF cannot say this tokenizer, or its ids do not fit the embeddings.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{where}: its tokenizer has no fast form (tokenizer.json); convert it first")
    data = json.loads(backend.to_str())
    model = data["model"]
    odd = [name for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(name)]
    if model["type"] != "BPE" or odd:
        raise UserError(f"{where}: its tokenizer is of type {model['type']}{f' with {odd[0]}' if odd else ''}; GGUF files are "
                        "written of byte-level BPE and SentencePiece-like BPE tokenizers")
    tokens, kinds = _tokens(tokenizer, data["added_tokens"], rows, where)
    merges = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    byte_level = "ByteLevel" in json.dumps(data["pre_tokenizer"])
    own = (_byte_level if byte_level else _pieces)(data, tokens, kinds, merges, where)
    fields = {**own, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds, **_special_ids(tokenizer, where)}
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    return {**fields, "tokenizer.chat_template": template} if template else fields


def _tokens(tokenizer: PreTrainedTokenizerBase, added: list[dict[str, Any]], rows: int,
            where: object) -> tuple[list[str], list[int]]:
    """Every id's text and type; rows of the embeddings without a token get one that no text contains."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    by_id = {number: token for token, number in vocabulary.items()}
    if len(by_id) != len(vocabulary):
        raise UserError(f"{where}: its tokenizer gives {len(vocabulary) - len(by_id)} ids to two tokens each; it is damaged")
    if by_id and (highest := max(by_id)) >= rows:
        raise UserError(f"{where}: token {highest} ('{by_id[highest]}') has no row in the embeddings, which have {rows}: tokens "
                        "were added and the model was never resized; remove them from the tokenizer, or resize the model's "
                        "embeddings")
    kinds = dict.fromkeys(by_id, NORMAL)
    for token in added:
        if token["special"]:
            kinds[token["id"]] = CONTROL
        elif SPACE not in token["content"]:  # llama.cpp would match it in raw text, where no such character stands for a space
            kinds[token["id"]] = USER_DEFINED
    taken = set(vocabulary)
    for number in range(rows):
        if number not in by_id:
            name = f"[PAD{number}]"
            while name in taken:
                name = f"[{name}]"
            by_id[number], kinds[number] = name, UNUSED
    return [by_id[number] for number in range(rows)], [kinds[number] for number in range(rows)]


def _byte_level(data: dict[str, Any], tokens: list[str], kinds: list[int], merges: list[tuple[str, str]],
                where: object) -> dict[str, Any]:
    """Byte-level BPE: the rule that cuts as this tokenizer does, and its merges."""
    normalizer = data["normalizer"]
    if normalizer not in (None, {"type": "NFC"}):  # of NFC there is no word in GGUF, but most text is in that form
        raise UserError(f"{where}: its tokenizer changes text before it is cut ({json.dumps(normalizer)[:80]}), which GGUF "
                        "cannot say of byte-level BPE; choose another --method")
    ignores = bool(data["model"].get("ignore_merges"))
    found = {rule.ignore_merges: name for name, rule in rules_like(data["pre_tokenizer"])}
    if not found:
        raise UserError(f"{where}: llama.cpp has no rule known here that cuts text as its tokenizer does "
                        f"({json.dumps(data['pre_tokenizer'])[:120]}); choose another --method")
    if ignores not in found and not _reaches_all(tokens, kinds, merges):
        raise UserError(f"{where}: its tokenizer takes whole tokens {'without' if ignores else 'only by'} their merges; "
                        f"llama.cpp's rule '{next(iter(found.values()))}' does not, and it matters to this vocabulary; choose "
                        "another --method")
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": found.get(ignores) or next(iter(found.values())),
            "tokenizer.ggml.merges": [" ".join(merge) for merge in merges]}


def _reaches_all(tokens: list[str], kinds: list[int], merges: list[tuple[str, str]]) -> bool:
    """Whether merging makes every token of its own text: then it is the same whether merges are ignored for whole tokens."""
    from tokenizers import Tokenizer, models

    plain = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    normal = [number for number, kind in enumerate(kinds) if kind == NORMAL]
    encoded = plain.encode_batch_fast([tokens[number] for number in normal], add_special_tokens=False)
    return all(encoding.ids == [number] for number, encoding in zip(normal, encoded, strict=True))


def _pieces(data: dict[str, Any], tokens: list[str], kinds: list[int], merges: list[tuple[str, str]],
            where: object) -> dict[str, Any]:
    """SentencePiece-like: scores in the order of the merges, which are then what the scores stand for, no more and no fewer."""
    model = data["model"]
    missing = [token for token in _BYTES if token not in model["vocab"]]
    if not model.get("byte_fallback") or missing or model.get("ignore_merges"):
        raise UserError(f"{where}: its tokenizer is neither byte-level BPE nor falls back to bytes ('{(missing or _BYTES)[0]}' "
                        "is no token of it); GGUF cannot say it, choose another --method")
    for token in _BYTES:
        kinds[model["vocab"][token]] = BYTE
    if (unknown := model.get("unk_token")) is not None:
        kinds[model["vocab"][unknown]] = UNKNOWN
    rank = {piece: place for place, piece in enumerate(dict.fromkeys(first + second for first, second in merges))}
    scores = {token: float(-rank.get(token, len(rank))) for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL}
    _check_merges(merges, scores, dict.fromkeys(tokens), where)
    return {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": [scores.get(token, 0.0) for token in tokens],
            "tokenizer.ggml.add_space_prefix": _prefixes_space(data["normalizer"], data["pre_tokenizer"], where)}


def _check_merges(merges: list[tuple[str, str]], scores: dict[str, float], tokens: dict[str, None], where: object) -> None:
    """Refuse merges that scores cannot stand for: llama.cpp joins any two tokens whose text together is a piece."""
    own = {merge for merge in merges if sum(map(len, merge)) > 1 and "".join(merge) in scores}
    implied = set(merges_of(scores, tokens))
    if own != implied:
        first, second = min(own ^ implied)
        does = "joins" if (first, second) in own else "never joins"
        raise UserError(f"{where}: its tokenizer {does} '{first}' and '{second}', llama.cpp "
                        f"{'would not' if does == 'joins' else 'would'} ({len(own ^ implied)} such pairs): its merges are not "
                        "those of scores, which is all that GGUF holds of them; choose another --method")
    ranks = [scores["".join(merge)] for merge in merges if merge in own]
    if ranks != sorted(ranks, reverse=True):
        raise UserError(f"{where}: the merges of its tokenizer that make the same piece stand apart; no scores, which is all "
                        "that GGUF holds of them, give that order; choose another --method")


def _prefixes_space(normalizer: Any, pre_tokenizer: Any, where: object) -> bool:
    """Whether a space is put before a text; spaces then become U+2581."""
    steps = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer] if normalizer else []
    replace = {"type": "Replace", "pattern": {"String": PLAIN}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    split = {"type": "Split", "pattern": {"String": PLAIN}, "behavior": "MergedWithPrevious", "invert": False}
    if steps in ([prepend, replace], [replace]) and pre_tokenizer in (None, split):
        return prepend in steps
    metaspace = {"type": "Metaspace", "replacement": SPACE, "split": False}
    if not steps and pre_tokenizer and pre_tokenizer.items() >= metaspace.items():
        return bool(pre_tokenizer.get("prepend_scheme", "always") != "never")
    raise UserError(f"{where}: its tokenizer prepares text in a way that GGUF cannot say (normalizer "
                    f"{json.dumps(normalizer)[:80]}, pre-tokenizer {json.dumps(pre_tokenizer)[:80]}); choose another --method")


def _special_ids(tokenizer: PreTrainedTokenizerBase, where: object) -> dict[str, Any]:
    """Ids of the special tokens, and whether texts are framed by the first two."""
    ids = {name: getattr(tokenizer, f"{ours}_token_id") for name, ours in _SPECIAL.items()}
    plain, framed = (tokenizer("a", add_special_tokens=special).input_ids for special in (False, True))
    bos, eos = ([ids[name]] if ids[name] is not None else [] for name in ("bos", "eos"))
    for add_bos in (False, True):
        for add_eos in (False, True):
            if framed == [*(bos * add_bos), *plain, *(eos * add_eos)]:
                stated = {f"tokenizer.ggml.{name}_token_id": number for name, number in ids.items() if number is not None}
                return {**stated, "tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.add_eos_token": add_eos}
    raise UserError(f"{where}: its tokenizer puts {framed} around {plain}; GGUF can only say one token before a text, the one "
                    "that begins it, and one after it, the one that ends it; choose another --method")
