"""Token ids are the Hugging Face tokenizer's, whichever library makes them; where they would differ, it is noticed."""

import importlib.util
import json
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from biomistral.corpus.packing import encoder as module
from biomistral.corpus.packing.encoder import HARD_TEXTS, Encoder, TokenizersDifferError, encoder_for

CORPUS = [*HARD_TEXTS, "The patients were treated with 25 mg of metformin in 2019; IC50 was 3.5 nM (p < 0.001)." * 3]
TEXTS = st.lists(st.text(alphabet="ab 1\n\t.'23\u00e9\u00b2\u0663\u4e2d\U0001f600\u0301\x04\u2581|<>/s", max_size=40), max_size=6)
has_gigatoken = pytest.mark.skipif(importlib.util.find_spec("gigatoken") is None, reason="the extra 'fast' is not installed")


def trained(kind: str) -> str:
    """A small tokenizer of one kind as JSON."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>") if kind == "sentencepiece" else models.BPE())
    specials: list[Any] = [AddedToken("<unk>", special=True), AddedToken("<s>", special=True), AddedToken("</s>", special=True)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    steps: dict[str, Any] = {
        "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        "unknown": pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex("[a-c]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        "sentencepiece": None}
    if kind == "sentencepiece":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        specials += [f"<0x{byte:02X}>" for byte in range(256)]
        alphabet = []
    else:
        tokenizer.pre_tokenizer = steps[kind]
        tokenizer.decoder = decoders.ByteLevel()
    if kind == "digits":  # as SmolLM2: some bytes have no token
        alphabet = [letter for letter in alphabet if letter not in "\u0106\u0120\u00f1"]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS if kind != "digits" else [text for text in CORPUS if "\x04" not in text], trainer)
    return str(tokenizer.to_str())


@cache
def tokenizer_json(kind: str) -> str:
    data = json.loads(trained(kind))
    if kind == "digits":
        kept = {token: number for token, number in data["model"]["vocab"].items() if token != "\u0106"}
        data["model"]["vocab"] = {token: number for number, token in enumerate(kept)}
        for token in data["added_tokens"]:
            token["id"] = data["model"]["vocab"][token["content"]]
    return json.dumps(data)


def reference(kind: str, texts: list[str]) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(tokenizer_json(kind))
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def lists(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    ids, lengths = encoder.encode(texts)
    assert (ids.dtype, len(lengths), int(lengths.sum())) == (np.uint32, len(texts), len(ids))
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if texts else []


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {kind: encoder_for(tokenizer_json(kind))[0] for kind in ("bytes", "digits", "sentencepiece", "unknown")}


@has_gigatoken
def test_the_fast_one_is_taken_where_it_is_right(encoders: dict[str, Encoder]) -> None:
    assert {kind: encoder.fast for kind, encoder in encoders.items()} == {
        "bytes": True, "digits": True, "sentencepiece": True, "unknown": False}
    assert encoder_for(tokenizer_json("unknown"))[1].startswith("tokenizers: gigatoken")


@pytest.mark.parametrize("kind", ["bytes", "digits", "sentencepiece", "unknown"])
@given(texts=TEXTS)
@settings(max_examples=60, deadline=None)
def test_ids_are_the_reference_ones(kind: str, texts: list[str], encoders: dict[str, Encoder]) -> None:
    assert lists(encoders[kind], texts) == reference(kind, texts)


@pytest.mark.parametrize("kind", ["bytes", "digits", "sentencepiece"])
def test_special_tokens_in_a_text_are_plain_text(kind: str, encoders: dict[str, Encoder]) -> None:
    specials = {token["id"] for token in json.loads(tokenizer_json(kind))["added_tokens"] if token["special"]}
    assert specials
    found = lists(encoders[kind], ["the end</s> of <s> it"])[0]
    assert not specials & set(found)


def test_an_encoder_travels(encoders: dict[str, Encoder]) -> None:
    encoders["digits"].encode(["warm"])
    assert lists(pickle.loads(pickle.dumps(encoders["digits"])), CORPUS) == reference("digits", CORPUS)


@has_gigatoken
def test_a_difference_in_the_corpus_is_an_error_not_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKED_ONE_IN", 1)
    encoder = Encoder(tokenizer_json("bytes"), fast=True)
    sound = module._Gigatoken.encode
    monkeypatch.setattr(module._Gigatoken, "encode", lambda self, texts: (sound(self, texts)[0] ^ 1, sound(self, texts)[1]))
    with pytest.raises(TokenizersDifferError, match="'some words"):
        encoder.encode(["some words of a document"])


@has_gigatoken
def test_a_difference_on_hard_texts_means_the_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = module._Gigatoken.encode
    monkeypatch.setattr(module._Gigatoken, "encode", lambda self, texts: (sound(self, texts)[0] ^ 1, sound(self, texts)[1]))
    encoder, why = encoder_for(tokenizer_json("bytes"))
    assert not encoder.fast
    assert "other ids" in why
