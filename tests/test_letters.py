"""The proof that letters are tokens, on tokenizers that make it hold, hold half, and fail."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from biomistral.errors import UserError
from biomistral.models.letters import encode, letter_tokens
from tiny import make_tokenizer


@pytest.fixture(scope="module")
def pico(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def word_level(words):
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    return tokenizer


def fast(tokenizer):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("prompt", ["**Answer:**(", "B\nAnswer:"])
def test_both_forms_count(pico, prompt):
    tokens = letter_tokens(pico, prompt, "ABCD")
    for letter, found in zip("ABCD", tokens, strict=True):
        assert {pico.decode([token]) for token in found} <= {letter, " " + letter}
        assert letter in {pico.decode([token]) for token in found}
        for token in found:
            assert [*encode(pico, [prompt])[0], token] in encode(pico, [prompt + letter, prompt + " " + letter])


def test_a_letter_that_merges_with_the_prompt_is_refused():
    """':A' is one token, and ' A' is two: neither form continues the prompt by one token."""
    characters = {character: index for index, character in enumerate(["<unk>", *"Answer: B"])}
    tokenizer = fast(Tokenizer(models.BPE({**characters, ":A": 20}, merges=[(":", "A")])))
    with pytest.raises(UserError, match=r"no single token for the option letter 'A' after 'Answer:'.*cloze-sum"):
        letter_tokens(tokenizer, "Answer:", "AB")


def test_letters_that_are_unknown_are_refused():
    tokenizer = fast(word_level(["Answer:", " "]))
    with pytest.raises(UserError, match="the same token"):
        letter_tokens(tokenizer, "Answer: ", "AB")


def test_one_bos_and_no_eos(pico):
    inner = word_level(["a", "b", " "])
    inner.post_processor = processors.TemplateProcessing("<s> <s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    assert encode(fast(inner), ["a b", "b"]) == [[1, 3, 5, 4], [1, 4]]
    assert encode(pico, ["heart"])[0] == pico("heart")["input_ids"]
