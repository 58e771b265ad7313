"""The proof that an option letter is one token after the prompt: without it, letters cannot be compared."""

from collections.abc import Sequence

from biomistral.errors import UserError
from biomistral.models.tokens import Tokenizer

_AT_ONCE = 256
"""Texts tokenised together: what `tokenizers` says of a text takes some hundred bytes a token, until its ids are taken."""


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, with the one BOS that the tokenizer puts in front by default, and never an EOS behind.

    Equal ids are one object: an int of its own for each place would take 28 bytes more.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    closed = bool(texts) and eos is not None and tokenizer("a")["input_ids"][-1:] == [eos]
    known: dict[int, int] = {}
    rows = []
    for start in range(0, len(texts), _AT_ONCE):
        some = list(texts[start:start + _AT_ONCE])
        for ids in tokenizer(some, add_special_tokens=True, return_attention_mask=False)["input_ids"]:
            row = [known.setdefault(token, token) for token in ids]
            if closed:
                row.pop()
            while bos is not None and row[:2] == [bos, bos]:
                row.pop(0)
            rows.append(row)
    return rows


def letter_tokens(tokenizer: Tokenizer, prompt: str, letters: str) -> list[tuple[int, ...]]:
    """The tokens that mean each letter right after ``prompt``: those of ``A`` and of a space and ``A``.

    A form counts only if prompt and letter, tokenised together, give the prompt's own ids and exactly one more; the
    probabilities of the forms that count are to be summed.

    Raises:
        UserError: a letter has no such token, or two letters share one.
    """
    forms = [form for letter in letters for form in (letter, " " + letter)]
    start, *joint = encode(tokenizer, [prompt, *(prompt + form for form in forms)])
    single = [ids[-1] if ids[:-1] == start else None for ids in joint]
    tokens = [tuple(dict.fromkeys(token for token in single[2 * index: 2 * index + 2] if token is not None))
              for index in range(len(letters))]
    for letter, found in zip(letters, tokens, strict=True):
        if not found:
            raise UserError(f"this tokenizer has no single token for the option letter {letter!r} after {prompt[-12:]!r}: its "
                            "probability cannot be read; evaluate this model with the protocols cloze-sum and cloze-mean")
    everything = [token for found in tokens for token in found]
    if len(set(everything)) < len(everything):
        raise UserError(f"this tokenizer gives two of the option letters {letters} the same token (an unknown token?); "
                        "evaluate this model with the protocols cloze-sum and cloze-mean")
    return tokens
