"""A benchmark's own questions as fine-tuning data: put as evaluation puts them, and never one that the test asks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral import cli
from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.models.letters import letter_tokens
from biomistral.models.load import load_model, load_tokenizer
from biomistral.recipe import Input, Machine, parse
from biomistral.records import Question, question_row, write_questions
from biomistral.run import execute
from biomistral.training.data.batch import IGNORE
from biomistral.training.data.questions import Choice, as_example, fingerprint
from biomistral.training.data.sources import Examples
from biomistral.training.data.supervised import SupervisedBlocks
from biomistral.training.settings import FinetuneSettings
from tiny import make_model
from tiny_questions import make_questions, question
from training_inputs import make_examples

CPU = Machine(device="cpu")
HEART = Question(id="h", task="anatomy", split="train", stem=" What beats? ", options=("bone", " heart "), answer="B")
HELP = Question(id="p", task="pubmedqa", split="train", stem="Does it help?", options=("yes", "no", "maybe"), answer="C",
                context="We asked. We saw.")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("questions") / "model")


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def finetune(model: Path, train: Path | list[str], out: Path, **changes: Any) -> dict[str, Any]:
    inputs = {"model": str(model), "train": train if isinstance(train, list) else str(train)}
    chosen = {**inputs, "max_steps": 1, "sequence_length": 256, "method": "full", **changes}
    manifest: dict[str, Any] = execute(parse(FinetuneSettings, chosen), out, CPU).manifest
    return manifest


# ---- how a question is put ------------------------------------------------------------------------------------------


def test_prompts_to_the_letter() -> None:
    """Written out by hand: BioMistral's, MedConceptsQA's, and the stem alone; the completion follows without a space."""
    head = "The following are multiple choice questions (with answers) about medical knowledge. \n "
    other = "Answer A,B,C,D according to the answer to this multiple choice question.\n"
    shown = [(example.prompt, example.completion) for form in ("letters", "medconceptsqa", "cloze")
             for example in (as_example(HEART, "f:1", form), as_example(HELP, "f:2", form))]
    assert shown == [
        (head + "**Question:** What beats? \n (A) bone \n (B) heart \n **Answer:**(", "B"),
        (head + "We asked. We saw. \n **Question:** Does it help? \n (A) yes \n (B) no \n (C) maybe \n **Answer:**(", "C"),
        (other + "What beats?\nA. bone\nB. heart\nAnswer:", "B"),
        (other + "We asked. We saw.\nDoes it help?\nA. yes\nB. no\nC. maybe\nAnswer:", "C"),
        ("What beats?\nAnswer:", " heart"),
        ("We asked. We saw.\nDoes it help?\nAnswer:", " maybe")]


@pytest.mark.parametrize("form", ["letters", "medconceptsqa"])
def test_what_is_learnt_is_the_token_that_evaluation_reads(form: Any, model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model)
    path = make_questions(tmp_path / "q.parquet", train=9)
    blocks = SupervisedBlocks(Examples(path, Choice(form=form)), tokenizer, 4096, root=0)
    assert blocks.num_examples == 18
    prompts = {example.id: example for example in Examples(path, Choice(form=form))}
    for block in (blocks[index] for index in range(len(blocks))):
        bounds = np.cumsum(block.lengths)[:-1]
        parts = (np.split(column, bounds) for column in (block.tokens, block.labels))
        for name, tokens, labels in zip(block.documents, *parts, strict=True):
            learnt = labels[labels != IGNORE].tolist()
            shown = tokenizer(prompts[name].prompt).input_ids
            assert tokens[:len(shown)].tolist() == shown
            assert len(learnt) == 2
            assert learnt[0] in letter_tokens(tokenizer, prompts[name].prompt, "ABCD")["ABCD".index(prompts[name].completion)]
            assert learnt[1] == tokenizer.eos_token_id


def test_questions_that_were_learnt_are_answered(model: Path, tmp_path: Path) -> None:
    """By evaluation, on the split trained on: were the prompt another by one token, a pico model would not know it."""
    path = make_questions(tmp_path / "q.parquet", train=4)
    finetune(model, path, tmp_path / "out", tasks="codes", form="letters", max_steps=None, epochs=120, learning_rate=5e-3,
             batch_sequences=4, warmup_steps=10, compute_dtype="float32")
    results = execute(EvaluateSettings(model=Input(tmp_path / "out"), benchmark=Input(path), split="train", tasks=["codes"],
                                       protocols=["letters-0shot"]), tmp_path / "results", CPU)
    found = json.loads((results.path / "results.json").read_text())["protocols"]["letters-0shot"]["overall"]
    assert (found["accuracy"], found["open_accuracy"]) == (1, 1)
    assert found["letter_mass"] > 0.9


# ---- what is chosen, and what never is ------------------------------------------------------------------------------


def test_split_and_tasks_choose(tmp_path: Path) -> None:
    path = make_questions(tmp_path / "q.parquet", train=3)
    for choice, expected in ((Choice(), [f"{task}/train/{n}" for task in ("codes", "signs") for n in range(3)]),
                             (Choice("dev", ("signs",)), [f"signs/dev/{n}" for n in range(4)])):
        examples = Examples(path, choice)
        assert [example.id for example in examples] == expected
        assert examples.total == len(expected)
    assert next(iter(examples)).place.startswith(f"{path}:")


def test_folders_files_and_training_text_are_one_set(model: Path, tmp_path: Path) -> None:
    """A benchmark folder, a JSONL of questions, a benchmark with training text of its own, prompts: told by what they hold."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "taught").mkdir()
    make_questions(tmp_path / "folder" / "questions.parquet", train=2)
    make_questions(tmp_path / "taught" / "questions.parquet", train=5)
    make_examples(tmp_path / "taught" / "train.jsonl", repeats=1)
    jsonl = write(tmp_path / "q.jsonl", question_row(HEART), question_row(HELP))
    prompts = make_examples(tmp_path / "p.jsonl", repeats=1)
    examples = Examples([tmp_path / "folder", jsonl, tmp_path / "taught", prompts])
    found = [example.id for example in examples]
    assert found[:6] == ["codes/train/0", "codes/train/1", "signs/train/0", "signs/train/1", "h", "p"]
    assert len(found) == examples.total == 6 + 4 + 4
    counts = finetune(model, [str(tmp_path / "folder"), str(prompts)], tmp_path / "out")["counts"]
    assert (counts["examples"], counts["examples_left_out"]) == (8, 0)


@pytest.mark.parametrize(("changes", "problem"), [
    ({"split": "test"}, "split 'test' is what a benchmark asks in the end"), ({"split": "TEST-hard"}, "is what a benchmark asks"),
    ({"split": "trian"}, r"q\.parquet: has no questions of split 'trian'; did you mean 'train'"),
    ({"split": "tset"}, "split 'tset'; known: dev, train, validation$"),
    ({"tasks": "sings"}, r"q\.parquet: has no questions of task 'sings' in split 'train'; did you mean 'signs'"),
    ({"form": "letter"}, "form = 'letter'")])
def test_what_is_not_there_is_refused(changes: dict[str, Any], problem: str, model: Path, tmp_path: Path) -> None:
    path = make_questions(tmp_path / "q.parquet")
    with pytest.raises(UserError, match=problem) as caught:
        finetune(model, path, tmp_path / "out", **changes)
    assert "\n" not in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ["q.parquet"]


def test_a_choice_without_questions_is_refused(model: Path, tmp_path: Path) -> None:
    prompts, path = make_examples(tmp_path / "p.jsonl"), make_questions(tmp_path / "q.parquet")
    for changes, problem in (({"tasks": "codes"}, r"p\.jsonl: tasks codes: chooses among a benchmark's questions"),
                             ({"split": "dev"}, r"p\.jsonl: split 'dev': chooses among")):
        with pytest.raises(UserError, match=problem):
            finetune(model, prompts, tmp_path / "out", **changes)
    other = tmp_path / "other.jsonl"
    write(other, question_row(HEART))
    with pytest.raises(UserError, match=r"other\.jsonl: none of its questions is of split 'train' and tasks codes; leave"):
        Examples([path, other], Choice(tasks=("codes",)))


def test_questions_without_answers_are_named(tmp_path: Path) -> None:
    row = {**question_row(HELP), "answer": None}
    with pytest.raises(UserError, match=r"q\.jsonl:2: question 'p' has no answer"):
        Examples(write(tmp_path / "q.jsonl", question_row(HEART), row))
    for answer in ("", "AB", "D"):
        with pytest.raises(UserError, match=rf"q\.jsonl:2: question 'p': answer '{answer}' is not among the options ABC"):
            Examples(write(tmp_path / "q.jsonl", question_row(HEART), {**row, "answer": answer}))


def _leaky(path: Path, *more: Question) -> Path:
    """Five questions to train on; of two the test asks a copy in other dress."""
    kept = [question("train", "codes", number) for number in range(5)]
    asked = [kept[1].model_copy(update={"id": "t1", "split": "test", "task": "other", "answer": "D",
                                        "stem": kept[1].stem.upper().replace(" ", "  ") + " ?",
                                        "options": (*kept[1].options[1:], kept[1].options[0] + ".")}),
             kept[3].model_copy(update={"id": "t3", "split": "test-2", "context": "Other words."}),
             question("test", "codes", 4)]
    write_questions(path, [*kept, *asked, *more])
    return path


def test_copies_of_test_questions_are_left_out(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _leaky(tmp_path / "q.parquet")
    examples = Examples(path)
    assert [example.id for example in examples] == ["codes/train/0", "codes/train/2", "codes/train/4"]
    assert (examples.left_out, examples.total) == (2, 5)
    assert "2 of the 5 examples are asked in the test or for validation too" in caplog.text
    assert finetune(model, path, tmp_path / "out")["counts"]["examples_left_out"] == 2


def test_of_several_benchmarks_every_test_is_left_out(model: Path, tmp_path: Path) -> None:
    """Whether the other benchmark is trained on, held out, or asked while training."""
    path = make_questions(tmp_path / "q.parquet", train=4)
    write_questions(tmp_path / "b.parquet", [
        question("train", "codes", 0).model_copy(update={"split": "test"}),
        question("train", "codes", 1).model_copy(update={"split": "validation"}),
        HEART.model_copy(update={"task": "codes"})])
    other = str(tmp_path / "b.parquet")
    for name, changes, left_out in (("train", {}, 1), ("held", {"validation": other}, 2), ("asked", {"validate_on": other}, 2),
                                    ("none", {}, 0)):
        train: Any = [str(path), other] if name == "train" else path
        assert finetune(model, train, tmp_path / name, tasks="codes", **changes)["counts"]["examples_left_out"] == left_out, name


@pytest.mark.parametrize("form", ["letters", "medconceptsqa", "cloze"])
def test_prompts_that_put_a_test_question_are_left_out(form: Any, model: Path, tmp_path: Path) -> None:
    """Written to a file by hand, as prompts or as a conversation, in any form that evaluation has."""
    path = make_questions(tmp_path / "q.parquet", test=3)
    test = [as_example(question("test", "signs", number), "", form) for number in range(3)]
    train = as_example(question("train", "signs", 0), "", form)
    turns = [{"role": "user", "content": test[0].prompt + " "}, {"role": "assistant", "content": test[0].completion}]
    rows: list[dict[str, Any]] = [
        {"prompt": test[1].prompt, "completion": "x", "id": "b"},
        {"prompt": test[2].prompt.upper(), "completion": "x", "id": "c"},
        {"prompt": train.prompt, "completion": "x", "id": "d"}, {"messages": turns, "id": "a"}]
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "questions.parquet")
    text = write(tmp_path / "folder" / "train.jsonl", *rows)
    asked = {(tmp_path / "folder" / "questions.parquet", "validation")}
    for examples in (Examples(text, asked=asked), Examples(tmp_path / "folder")):
        assert [example.id for example in examples] == ["d"]
        assert examples.left_out == 3
    assert len(list(Examples(text))) == 4  # of a test that is not named nothing is known


def test_a_train_split_that_is_the_test_is_refused(model: Path, tmp_path: Path) -> None:
    kept = [question("train", "codes", number) for number in range(3)]
    asked = [item.model_copy(update={"id": item.id + "t", "split": "test"}) for item in kept]
    write_questions(tmp_path / "q.parquet", [*kept, *asked])
    with pytest.raises(UserError, match=r"q\.parquet: every question is asked in the test"):
        finetune(model, tmp_path / "q.parquet", tmp_path / "out")


@settings(max_examples=60, deadline=None)
@given(stem=st.text(min_size=1).filter(str.strip), data=st.data(),
       options=st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=5))
def test_a_fingerprint_is_blind_to_dress_alone(stem: str, data: st.DataObject, options: list[str]) -> None:
    plain = Question(id="a", task="t", stem=stem, options=tuple(options), answer="A")
    mixed = data.draw(st.permutations(options))
    dressed = Question(id="b", task="u", split="test", stem=f" {stem}\n", options=tuple(f"{option} " for option in mixed),
                       answer="B", context="c")
    assert fingerprint(plain) == fingerprint(dressed)
    assert fingerprint(plain) != fingerprint(plain.model_copy(update={"stem": stem + " not"}))
    assert fingerprint(plain) != fingerprint(plain.model_copy(update={"options": (*options[:-1], options[-1] + " 5")}))


@pytest.mark.parametrize(("one", "other"), [("> 5 mg", "< 5 mg"), ("5 %", "5"), ("+", "="), ("糖尿病", "高血压"), ("B12", "B 1")])
def test_signs_that_change_the_meaning_stay(one: str, other: str) -> None:
    first, second = (HEART.model_copy(update={"options": ("bone", text)}) for text in (one, other))
    assert fingerprint(first) != fingerprint(second)


# ---- held-out examples, preview -------------------------------------------------------------------------------------


def test_several_held_out_inputs_are_one_set(model: Path, tmp_path: Path) -> None:
    """A benchmark's validation split and a file of prompts: the loss before training against one written out here."""
    path, prompts = make_questions(tmp_path / "q.parquet", validation=2), make_examples(tmp_path / "p.jsonl", repeats=1)
    fast = {"compute_dtype": "float32", "validation": [str(path), str(prompts)], "tasks": "signs"}
    finetune(model, path, tmp_path / "both", **fast)
    rows = [json.loads(line) for line in (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "heldout_loss" in row]
    plain, tokenizer, losses = load_model(model, torch.float32), load_tokenizer(model), []
    shown = [as_example(question("validation", "signs", number), "", "letters") for number in range(2)]
    pairs = [(example.prompt, example.completion) for example in shown]
    pairs += [(row["prompt"], row["completion"]) for row in map(json.loads, prompts.read_text().splitlines())]
    for prompt, completion in pairs:
        start = tokenizer(prompt).input_ids
        ids = torch.tensor([[*start, *tokenizer(completion).input_ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            logprobs = plain(ids).logits[0, len(start) - 1:-1].log_softmax(-1)
        losses += (-logprobs.gather(1, ids[0, len(start):, None])[:, 0]).tolist()
    assert rows[0]["heldout_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_preview_shows_questions(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _leaky(tmp_path / "q.parquet")
    with pytest.raises(SystemExit):
        cli.app(args=["preview", "--model", str(model), "--train", str(path), "--form", "cloze", "--tasks", "codes,codes"])
    out = capsys.readouterr().out
    assert "Train, codes: What is E11.9?\nAnswer:⟦ type 2 diabetes mellitus</s>⟧" in out
    assert "3 examples" in out
    assert "left out: 2 questions that the test asks too" in out
    with pytest.raises(SystemExit):
        cli.app(args=["preview", "--model", str(model), "--train", str(path), "--split", "test"])
    assert "split 'test' is what a benchmark asks in the end" in capsys.readouterr().err
