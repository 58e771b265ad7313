"""Tokenizers in GGUF files: the same ids as the model's own for any text, the chat template, and what GGUF cannot say."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from biomistral.artifact import Artifact
from biomistral.errors import UserError
from biomistral.models.gguf_file import GGUFFile
from biomistral.models.gguf_rules import RULES
from biomistral.models.gguf_tokenizer import CONTROL, UNUSED, USER_DEFINED, tokenizer_of
from biomistral.models.load import load_tokenizer
from biomistral.quantization.settings import QuantizeSettings
from biomistral.run import execute
from gguf_models import VOCABULARY, make_decoder, make_pieces
from gguf_tokenizers import AWKWARD, KINDS, byte_level, frame, trained, with_more_tokens, with_tokenizer
from tiny import TEXT, make_tokenizer


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("pico") / "model", "llama", vocab_size=600)


def run(model: Path, out: Path) -> Artifact:
    return execute(QuantizeSettings(model=str(model), method="gguf:Q8_0"), out)


def read_back(made: Artifact) -> tuple[dict[str, Any], PreTrainedTokenizerBase]:
    fields = GGUFFile(made.path / "model-Q8_0.gguf").fields
    return fields, tokenizer_of(fields, "the file")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_ids_for_any_text(tmp_path: Path, pico: Path, kind: str) -> None:
    model = with_tokenizer(pico, tmp_path / "model", KINDS[kind])
    made = run(model, tmp_path / "made")
    fields, found = read_back(made)
    own = load_tokenizer(model)
    if kind in RULES:
        assert fields["tokenizer.ggml.pre"] == kind
    remarks = made.manifest["facts"]["gguf"]["remarks"]
    scheme = ["texts that begin with a space", "text after a special token"]
    unlike = {"nfc": ["text that is not in Unicode's form NFC"], "pieces first": scheme, "pieces always": scheme}.get(kind, [])
    assert remarks == [f"{name} may be cut into other tokens by llama.cpp" for name in unlike]

    special = ("<s>", "</s>", "<unk>", "<extra>")

    @settings(max_examples=60, deadline=None)
    @given(st.one_of(st.text(max_size=30), st.lists(st.sampled_from([*TEXT.split(), *AWKWARD]), max_size=6).map(" ".join)))
    def same(text: str) -> None:
        if kind == "nfc" and text != normalizers.NFC().normalize_str(text):
            return
        if unlike == scheme and (text.startswith((" ", "▁")) or any(token in text for token in special)):
            return
        assert found(text).input_ids == own(text).input_ids
        assert found(text, add_special_tokens=False).input_ids == own(text, add_special_tokens=False).input_ids

    for text in AWKWARD:
        same = example(text)(same)
    same()
    for name in ("bos_token", "eos_token", "unk_token"):
        assert getattr(found, f"{name}_id") == getattr(own, f"{name}_id")
    assert found.chat_template == own.chat_template
    copied = load_tokenizer(made.path)
    assert copied.backend_tokenizer.to_str() == own.backend_tokenizer.to_str()


def test_transformers_own_reader_gives_the_same_ids(tmp_path: Path, pico: Path) -> None:
    for kind in ("gpt-2", "pieces"):
        model = with_tokenizer(pico, tmp_path / kind / "model", KINDS[kind])
        made = run(model, tmp_path / kind / "made")
        alone = Path(shutil.copytree(made.path, tmp_path / kind / "alone", ignore=shutil.ignore_patterns("tokenizer*")))
        theirs, own = AutoTokenizer.from_pretrained(alone, gguf_file="model-Q8_0.gguf"), load_tokenizer(model)
        for text in (TEXT, "Größe: 12.5 cm\n\nнорма", "患者 120/80 mmHg"):
            assert theirs(text, add_special_tokens=False).input_ids == own(text, add_special_tokens=False).input_ids


def test_rows_without_a_token_get_one_that_no_text_contains(tmp_path: Path, pico: Path) -> None:
    def make(folder: Path) -> None:
        byte_level(lambda tokenizer: tokenizer.add_tokens([AddedToken("[PAD599]", normalized=False)]))(folder)

    model = with_tokenizer(pico, tmp_path / "model", make)
    fields, found = read_back(run(model, tmp_path / "made"))
    own = load_tokenizer(model)
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(set(tokens)) == len(kinds) == 600
    assert tokens[len(own)] == f"[PAD{len(own)}]"
    assert tokens[599] == "[[PAD599]]"
    assert set(kinds[len(own):]) == {UNUSED}
    assert found(f"a[PAD599] [PAD{len(own)}]").input_ids == own(f"a[PAD599] [PAD{len(own)}]").input_ids


def test_kinds_of_tokens(tmp_path: Path, pico: Path) -> None:
    model = with_tokenizer(pico, tmp_path / "model", byte_level(with_more_tokens))
    fields, found = read_back(run(model, tmp_path / "made"))
    kind = dict(zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True))
    assert kind["<|end of turn|>"] == kind["</s>"] == CONTROL
    assert kind["<extra>"] == kind["HbA1c"] == USER_DEFINED
    assert found.decode(found("HbA1c<|im_start|>").input_ids, skip_special_tokens=True) == "HbA1c"
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.ggml.add_eos_token"]) == (False, False)


def test_of_several_chat_templates_the_default(tmp_path: Path, pico: Path) -> None:
    def make(folder: Path) -> None:
        make_tokenizer(folder, VOCABULARY)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        tokenizer.chat_template = {"default": "{{ messages[0]['content'] }} ÄÖ 中", "tool_use": "{{ tools }}"}
        tokenizer.save_pretrained(folder)

    fields, _ = read_back(run(with_tokenizer(pico, tmp_path / "model", make), tmp_path / "made"))
    assert fields["tokenizer.chat_template"] == "{{ messages[0]['content'] }} ÄÖ 中"


def word_level(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def too_many(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens([f"<{number}>" for number in range(300)])


def lower(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def odd_pieces(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        make_pieces(folder)
        path = folder / "tokenizer.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
    return make


def one_merge_less(data: dict[str, Any]) -> None:
    data["model"]["merges"].pop()


def apart(data: dict[str, Any]) -> None:
    merges = data["model"]["merges"]
    made = ["".join(merge) for merge in merges]
    first = next(place for place, piece in enumerate(made) if made.count(piece) > 1)
    merges.append(merges.pop(first))


def without_bytes(data: dict[str, Any]) -> None:
    data["model"]["byte_fallback"] = False


UNSAID: dict[str, tuple[Callable[[Path], Any], str]] = {
    "kind": (word_level, "its tokenizer is of type WordLevel; GGUF files are written of byte-level BPE and SentencePiece-like"),
    "more tokens than rows": (byte_level(too_many), r"token \d+ \('<299>'\) has no row in the embeddings, which have 600"),
    "normalizer": (byte_level(lower), r"changes text before it is cut \(\{\"type\": \"Lowercase\"\}\)"),
    "another rule": (trained(pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(use_regex=False)])),
                     "no rule known here that cuts text as its tokenizer does"),
    "another frame": (byte_level(frame(["</s>"], [])), "GGUF can only say one token before a text"),
    "two before": (byte_level(frame(["<s>", "<unk>"], [])), "GGUF can only say one token before a text"),
    "merges": (odd_pieces(one_merge_less), r"its tokenizer never joins '.*', llama\.cpp would \(1 such pairs\)"),
    "order": (odd_pieces(apart), "merges of its tokenizer that make the same piece stand apart"),
    "bytes": (odd_pieces(without_bytes), "neither byte-level BPE nor falls back to bytes"),
}


@pytest.mark.parametrize("case", UNSAID)
def test_tokenizers_that_gguf_cannot_say_are_refused(tmp_path: Path, pico: Path, case: str) -> None:
    make, message = UNSAID[case]
    model = with_tokenizer(pico, tmp_path / "model", make)
    with pytest.raises(UserError, match=message) as caught:
        run(model, tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    assert not list(tmp_path.glob(".made.*"))


def test_files_whose_tokenizer_cannot_be_read(tmp_path: Path, pico: Path) -> None:
    fields, _ = read_back(run(pico, tmp_path / "made"))
    tokens = fields["tokenizer.ggml.tokens"]
    for change, message in (({"tokenizer.ggml.model": "bert"}, "its tokenizer is of kind 'bert'"),
                            ({"tokenizer.ggml.pre": "viking"}, "cuts text by the rule 'viking', which is not known here"),
                            ({"tokenizer.ggml.tokens": [*tokens[:-1], tokens[0]]}, "600 entries, 599 different ones"),
                            ({"tokenizer.ggml.token_type": [1]}, "600 different ones and 1 types"),
                            ({"tokenizer.ggml.model": "llama"}, "600 entries and 0 scores")):
        with pytest.raises(UserError, match=message):
            tokenizer_of(fields | change, "file.gguf")
