"""Conversations, several files and the preview: what fine-tuning reads, with its mask, and what it refuses."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral import cli
from biomistral.errors import UserError
from biomistral.models.load import load_model, load_tokenizer
from biomistral.recipe import Input
from biomistral.run import execute
from biomistral.training.data.batch import IGNORE
from biomistral.training.data.jsonl import read_examples
from biomistral.training.data.sources import Examples
from biomistral.training.data.supervised import SupervisedBlocks
from biomistral.training.settings import FinetuneSettings
from tiny import make_model

TEMPLATE = ("{% for m in messages %}<s>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}</s>"
            "{% endgeneration %}{% else %}{{ m['content'] }}</s>{% endif %}{{ '\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant\n{% endif %}")
FORGETFUL = ("{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] if loop.last or m['role'] == 'user' else '...' }}</s>\n"
             "{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}")
MUTE = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
STRICT = "{{ raise_exception('roles must alternate') }}"


def _with_template(model: Path, folder: Path, template: str | None) -> Path:
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    return _with_template(make_model(folder / "plain"), folder / "model", TEMPLATE)


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only_block(path: Path, model: Path, **options: Any) -> tuple[list[int], list[int]]:
    block = SupervisedBlocks(Examples(path), load_tokenizer(model), 256, root=0, **options)[0]
    return block.tokens.tolist(), block.labels.tolist()


def test_mask_is_the_templates_own(model: Path, tmp_path: Path) -> None:
    """Tokens and mask against transformers' reading of the template's ``generation`` marks, which ours does not use."""
    messages = [{"role": "system", "content": "Be brief."}, *turns("What is I10?", "Essential hypertension.", "E11.9?", "糖尿病")]
    expected = load_tokenizer(model).apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    tokens, labels = only_block(write(tmp_path / "t.jsonl", {"messages": messages}), model)
    assert tokens == expected["input_ids"]
    assert [label != IGNORE for label in labels[:-1]] == [bool(mark) for mark in expected["assistant_masks"][1:]]
    assert all(label in (IGNORE, token) for label, token in zip(labels, tokens[1:], strict=False))
    whole = only_block(tmp_path / "t.jsonl", model, full_text=True)[1]
    assert whole == [*tokens[1:], IGNORE]


@settings(max_examples=30, deadline=None)
@given(contents=st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<"), min_size=1).filter(str.strip),
                         min_size=2, max_size=6))
def test_what_is_learnt_is_what_the_assistant_says(model: Path, tmp_path_factory: pytest.TempPathFactory,
                                                   contents: list[str]) -> None:
    messages = turns(*contents[:len(contents) // 2 * 2])
    path = write(tmp_path_factory.mktemp("p") / "t.jsonl", {"messages": messages})
    tokenizer = load_tokenizer(model)
    block = SupervisedBlocks(Examples(path), tokenizer, 10_000, root=0)[0]
    said = "".join(message["content"] + "</s>" for message in messages if message["role"] == "assistant")
    assert tokenizer.decode(block.labels[block.labels != IGNORE]) == said
    assert tokenizer.decode(block.tokens) == tokenizer.apply_chat_template(messages, tokenize=False)
    first = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    assert block.tokens[:len(first)].tolist() == first  # what inference shows before the first answer


def test_a_conversation_is_learnt(model: Path, tmp_path: Path) -> None:
    rows = [{"messages": turns(f"What is {code}?", name), "id": code}
            for code, name in (("I10", "essential hypertension"), ("R50", "fever")) for _ in range(6)]
    chosen = FinetuneSettings(model=Input(model), train=(Input(write(tmp_path / "t.jsonl", *rows)),), method="full", epochs=30,
                              learning_rate=1e-2, batch_sequences=2, sequence_length=64)
    out = execute(chosen, tmp_path / "out").path
    trained, tokenizer = load_model(out), load_tokenizer(out)
    shown = tokenizer.apply_chat_template(turns("What is I10?"), add_generation_prompt=True, return_tensors="pt")["input_ids"]
    answer = trained.generate(shown, max_new_tokens=12, do_sample=False)[0][shown.shape[1]:]
    assert tokenizer.decode(answer) == "essential hypertension</s>"


@pytest.mark.parametrize(("template", "problem"), [
    (FORGETFUL, "renders these turns differently once others follow"), (MUTE, "leaves out what the assistant says"),
    (STRICT, r"refuses these messages \(roles must alternate\)"), (None, "the model has no chat template")])
def test_templates_that_allow_no_mask_are_refused(template: str | None, problem: str, model: Path, tmp_path: Path) -> None:
    folder = _with_template(model, tmp_path / "model", template)
    path = write(tmp_path / "t.jsonl", {"prompt": "a", "completion": "b"}, {"messages": turns("a", "b", "c", "d")})
    with pytest.raises(UserError, match=rf"t\.jsonl:2: .*{problem}") as caught:
        SupervisedBlocks(Examples(path), load_tokenizer(folder), 256, root=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("row", "problem"), [
    ({"messages": []}, "'messages' is not a list of messages"), ({"messages": "hello"}, "'messages' is not a list"),
    ({"messages": ["a"]}, r"messages\[0\] is not an object"),
    ({"messages": [{"role": "user"}]}, r"messages\[0\]: 'content' is missing"),
    ({"messages": [{"role": "user", "content": [1]}]}, "'content' is not a text"),
    ({"messages": turns("a")}, "no message is the assistant's"), ({"messages": turns("a", " \n")}, r"messages\[1\]: .* is empty"),
    ({"messages": turns("a", "b")[1:]}, "begins with the assistant"),
    ({"messages": turns("a", "b"), "prompt": "a"}, "both messages and a prompt"),
    ({"prompt": "\ud800", "completion": "b"}, "half of a surrogate pair")])
def test_malformed_conversations_are_named(row: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"messages": turns("a", "b")}, row)
    with pytest.raises(UserError, match=rf"t\.jsonl:2: .*{problem}"):
        list(read_examples(path))


def test_an_answer_of_no_tokens_is_refused(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "model")
    data = json.loads((copy / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "Replace", "pattern": {"String": "\u200b"}, "content": ""}
    (copy / "tokenizer.json").write_text(json.dumps(data))
    path = write(tmp_path / "t.jsonl", {"prompt": "Pain?", "completion": "\u200b", "id": "q7"})
    with pytest.raises(UserError, match=r"t\.jsonl:1: the answer of example 'q7' has no tokens"):
        SupervisedBlocks(Examples(path), load_tokenizer(copy), 256, root=0)


def test_several_files_of_both_forms_are_one_set(model: Path, tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", {"prompt": "Pain?", "completion": " no", "id": 7},
                  {"prompt": "", "completion": "yes</s>"})
    chats = write(tmp_path / "chats.jsonl", {"messages": turns("Pain?", "no")})
    fast = {"method": "full", "epochs": 1, "sequence_length": 64}
    artifact = execute(FinetuneSettings(model=Input(model), train=(Input(pairs), Input(chats)), **fast), tmp_path / "out")
    assert artifact.manifest["counts"]["examples"] == 3
    blocks = SupervisedBlocks(Examples([pairs, chats]), load_tokenizer(model), 64, root=0)
    block = blocks[0]
    assert sorted(block.documents) == ["7", "chats.jsonl:1", "pairs.jsonl:2"]
    parts = dict(zip(block.documents, np.split(block.tokens, np.cumsum(block.lengths)[:-1]), strict=True))
    assert parts["pairs.jsonl:2"].tolist() == load_tokenizer(model)("yes</s>").input_ids  # one EOS, not two


def test_one_file_needs_no_list() -> None:
    assert FinetuneSettings.model_validate({"model": "m", "train": "t.jsonl"}).train == ("t.jsonl",)


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.app(args=["preview", *arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_preview_marks_what_is_learnt(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "t.jsonl", {"messages": turns("What is I10?", "Hyper\x1b[31mtension.", "R50?", "Fever.")},
                 {"prompt": "What is I10? Answer:", "completion": " essential hypertension", "id": "long"})
    common = ("--model", str(model), "--train", str(path), "--sequence-length", "12")
    code, out, _ = show(capsys, *common)
    assert code == 0
    assert "<s>assistant\n⟦Hyper␛[31mtension.</s>⟧\n<s>user\nR50?</s>\n<s>assistant\n⟦Fever.</s>⟧" in out
    assert "What is I10? Answer:⟦ essential hypertension</s>⟧" in out
    assert re.search(r"--- t.jsonl:1 \(.*t\.jsonl:1\): \d+ tokens, loss on \d+, longer than a sequence of 12: refused", out)
    data = json.loads(show(capsys, *common, "--json", "--samples", "1")[1])
    blocks = SupervisedBlocks(Examples(path), load_tokenizer(model), 256, root=0)
    predicted = sum(blocks[index].num_predicted for index in range(len(blocks)))
    assert (data["num_examples"], data["num_tokens"], data["num_predicted"]) == (2, blocks.num_tokens, predicted)
    assert len(data["samples"]) == 1
    assert f"{data['longest']} ({path}:1)" in out
    data = json.loads(show(capsys, *common, "--json", "--loss", "full_text")[1])
    assert data["num_predicted"] == data["num_tokens"] - 2


def test_preview_refuses_what_training_would(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "t.jsonl", {"prompt": "a", "completion": ""})
    code, out, err = show(capsys, "--model", str(model), "--train", str(path))
    assert (code, out) == (2, "")
    assert err == f"biomistral: {path}:1: the completion is empty\n"
