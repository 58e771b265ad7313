"""Evaluation where memory ends, over several processes, from a cache: the same records whoever computes them, and how."""

import importlib.util
import json
import shutil

import pytest
import torch

from biomistral.errors import UserError
from biomistral.evaluation.answering import model_digest
from biomistral.evaluation.kept import Kept
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.models.load import load_model, load_tokenizer
from biomistral.recipe import Machine
from biomistral.records import Question, read_rows, write_questions
from biomistral.run import execute
from biomistral.scoring.engine import Engine
from biomistral.scoring.lean.engine import LeanEngine
from biomistral.scoring.lean.taking import can_multiply
from biomistral.training.settings import FinetuneSettings
from forked import together
from tiny import make_model

PROTOCOLS = ["letters-0shot", "cloze-sum", "generate-0shot"]


def make_questions(count=24):
    return [Question(id=f"q{number}", task="t", stem=f"What is {'heart ' * (number * 7 % 11)}E{number}?",
                     options=("fever", "cough", "pain"), answer="ABC"[number % 3]) for number in range(count)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread")
    make_model(folder / "pico", vocab_size=500)
    write_questions(folder / "questions.parquet", make_questions())
    return folder


def settings(place, **changes):
    return EvaluateSettings(**{"model": str(place / "pico"), "benchmark": str(place / "questions.parquet"), "dtype": "float32",
                               "protocols": PROTOCOLS, "max_batch_tokens": 60, **changes})


def rows_of(folder, *without):
    return [{name: value for name, value in row.items() if name not in without} for row in read_rows(folder / "answers.parquet")]


@pytest.fixture(scope="module")
def done(place):
    execute(settings(place), place / "done")
    return rows_of(place / "done", "seconds")


class Narrow:
    """A memory in which no more than some tokens of one forward pass fit, as a GPU's or a CPU's allocator says it."""

    def __init__(self, most, error):
        self.most, self.error, self.refused, self.forward = most, error, 0, Engine._forward

    def __call__(self, engine, inputs, *args, **kwargs):
        if inputs.numel() > self.most:
            self.refused += 1
            raise self.error
        return self.forward(engine, inputs, *args, **kwargs)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")])
def test_batches_are_halved_where_memory_ends(place, done, tmp_path, monkeypatch, error, caplog):
    narrow = Narrow(250, error)
    monkeypatch.setattr(Engine, "_forward", lambda *args, **kwargs: narrow(*args, **kwargs))
    execute(settings(place, max_batch_tokens=2000), tmp_path / "out")
    found = rows_of(tmp_path / "out", "seconds")
    for mine, other in zip(found, done, strict=True):
        assert {**mine, "probabilities": None, "letter_mass": None} == {**other, "probabilities": None, "letter_mass": None}
        assert mine["probabilities"] == (other["probabilities"] and pytest.approx(other["probabilities"], abs=1e-5))
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["facts"]
    assert 0 < facts["batches_halved"] == narrow.refused < 12  # what follows is not tried at the old size again
    assert "not enough memory for a batch of" in caplog.text


@pytest.mark.skipif(not can_multiply(), reason="the lean engine needs bfloat16 products")
def test_the_lean_engine_halves_too_and_no_bit_changes(place, tmp_path, monkeypatch):
    """A pass that ends half-way leaves the shared tokens, which it was to compute too, for the next."""
    chosen = settings(place, dtype="bfloat16", max_batch_tokens=2000)
    execute(chosen, tmp_path / "whole")
    compute, refused = LeanEngine._compute, []

    def narrow(engine, rows, pasts, store, *rest, **more):
        refused.append(sum(map(len, rows)))
        if refused[-1] > 250:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        refused.pop()
        return compute(engine, rows, pasts, store, *rest, **more)

    monkeypatch.setattr(LeanEngine, "_compute", narrow)
    execute(chosen, tmp_path / "halved")
    assert rows_of(tmp_path / "halved", "seconds") == rows_of(tmp_path / "whole", "seconds")
    facts = json.loads((tmp_path / "halved" / "manifest.json").read_text())["facts"]
    assert 0 < facts["batches_halved"] == len(refused) < 12


def test_a_question_that_does_not_fit_alone_is_named(place, tmp_path, monkeypatch):
    narrow = Narrow(3, torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(Engine, "_forward", lambda *args, **kwargs: narrow(*args, **kwargs))
    with pytest.raises(UserError, match=r"^question 'q\d+': not enough memory for its \d+ tokens alone; choose fewer shots"):
        execute(settings(place), tmp_path / "out")


def test_other_errors_are_no_lack_of_memory(place, tmp_path, monkeypatch):
    narrow = Narrow(3, RuntimeError("shapes do not match"))
    monkeypatch.setattr(Engine, "_forward", lambda *args, **kwargs: narrow(*args, **kwargs))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        execute(settings(place), tmp_path / "out")


@pytest.mark.parametrize("protocol", ["letters-0shot", "medconceptsqa-0shot", "cloze-sum", "chat-0shot", "generate-0shot"])
def test_nan_names_the_question(place, tmp_path, protocol):
    damaged(tmp_path)
    with pytest.raises(UserError, match=r"^question 'the-one': the model computes NaN or infinite logits"):
        execute(settings(tmp_path, benchmark=str(tmp_path / "q.parquet"), protocols=[protocol], max_batch_tokens=0),
                tmp_path / "out")


def damaged(tmp_path):
    """A model with a row of NaN in its embedding, and questions of which one holds that token, which is never answered."""
    make_model(tmp_path / "pico", vocab_size=500, tied=False)
    model = load_model(tmp_path / "pico", torch.float32)
    token, = load_tokenizer(tmp_path / "pico")("Ä", add_special_tokens=False)["input_ids"][-1:]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
        model.lm_head.weight[token] = 0
    model.save_pretrained(tmp_path / "pico")
    questions = [*make_questions(6), Question(id="the-one", task="t", stem="Is it\nÄ\nor not?", options=("a", "b"), answer="A")]
    write_questions(tmp_path / "q.parquet", questions)


def test_a_cache_finds_answers_by_weights_and_prompts_never_by_name(place, done, tmp_path, monkeypatch):
    cached = Machine(cache=str(tmp_path / "cache"))
    execute(settings(place), tmp_path / "first", cached)
    seconds = rows_of(tmp_path / "first")
    assert rows_of(tmp_path / "first", "seconds") == done
    shutil.copytree(place / "pico", tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("the same weights")
    passes = []
    forward = Engine._forward
    monkeypatch.setattr(Engine, "_forward", lambda *args, **kwargs: (passes.append(1), forward(*args, **kwargs))[1])
    execute(settings(place, model=str(tmp_path / "moved")), tmp_path / "second", cached)
    assert passes == []
    assert {row["model"] for row in rows_of(tmp_path / "second")} == {"moved"}
    assert rows_of(tmp_path / "second", "model") == [{name: value for name, value in row.items() if name != "model"}
                                                     for row in seconds]
    execute(settings(place, protocols=["letters-0shot", "medconceptsqa-0shot"]), tmp_path / "third", cached)
    assert passes  # the new protocol alone is asked
    assert rows_of(tmp_path / "third")[:24] == seconds[:24]
    make_model(tmp_path / "pico", seed=1, vocab_size=500)  # other weights under the first one's name
    execute(settings(place, model=str(tmp_path / "pico")), tmp_path / "other", cached)
    assert rows_of(tmp_path / "other", "seconds")[0]["probabilities"] != done[0]["probabilities"]
    assert not (tmp_path / "first" / "parts").exists()


def test_half_a_line_counts_as_none_however_often_a_run_is_cut(tmp_path):
    def batches(*numbers):
        return iter([{"model": "", "question": f"q{number}"}] for number in numbers)

    first = Kept(tmp_path / "part.parquet", 4)
    assert [next(first.fill(batches(0)))] == [0]
    for number in (1, 2):
        with (tmp_path / "part.jsonl").open("ab") as file:
            file.write(b'{"batch": 3, "ro')
        again = Kept(tmp_path / "part.parquet", 4)
        assert again.missing == [0, 1, 2, 3][number:]
        assert next(again.fill(batches(number))) == number
    last = Kept(tmp_path / "part.parquet", 4)
    assert list(last.fill(batches(3))) == [3]
    assert [row["question"] for row in last.rows()] == ["q0", "q1", "q2", "q3"]
    assert [path.name for path in tmp_path.iterdir()] == ["part.parquet"]
    assert Kept(tmp_path / "part.parquet", 4).missing == []


def test_the_digest_is_of_what_decides_answers(place, tmp_path):
    shutil.copytree(place / "pico", tmp_path / "copy")
    (tmp_path / "copy" / "notes.md").write_text("x")
    assert model_digest(tmp_path / "copy") == model_digest(place / "pico")
    (tmp_path / "copy" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert model_digest(tmp_path / "copy") != model_digest(place / "pico")


def test_an_adapter_is_put_on_its_model(place, tmp_path):
    """The very adapter's model answers as the model it was merged into."""
    examples = [{"prompt": f"What is E{number}? ", "completion": "fever" if number % 2 else "cough"} for number in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, examples)))
    execute(FinetuneSettings(model=str(place / "pico"), train=str(tmp_path / "train.jsonl"), max_steps=4, learning_rate=0.02,
                             batch_sequences=2, sequence_length=64), tmp_path / "tuned")
    adapter = str(tmp_path / "tuned" / "adapter")
    execute(settings(place, adapter=adapter, protocols=["letters-0shot"]), tmp_path / "on")
    execute(settings(place, model=str(tmp_path / "tuned"), protocols=["letters-0shot"]), tmp_path / "merged")
    execute(settings(place, protocols=["letters-0shot"]), tmp_path / "without")
    on, merged, without = (rows_of(tmp_path / name) for name in ("on", "merged", "without"))
    for mine, other, base in zip(on, merged, without, strict=True):
        assert mine["probabilities"] == pytest.approx(other["probabilities"], abs=1e-3)  # merged weights are rounded
        assert mine["probabilities"] != pytest.approx(base["probabilities"], abs=2e-3)
    assert {row["model"] for row in on} == {"pico+adapter"}
    with pytest.raises(UserError, match="it is an adapter: name the model it was trained on, and evaluate with --adapter"):
        execute(settings(place, model=adapter), tmp_path / "no")
    make_model(tmp_path / "other", seed=5, vocab_size=500)
    with pytest.raises(UserError, match="an adapter for another base: trained on"):
        execute(settings(place, model=str(tmp_path / "other"), adapter=adapter), tmp_path / "no")
    with pytest.raises(UserError, match=r"not an adapter folder: it has no adapter_config\.json"):
        execute(settings(place, adapter=str(place / "pico")), tmp_path / "no")


def torchrun(size, folder, chosen, machine=None):
    codes = together(size, lambda rank: execute(chosen, folder / "out", machine) and None, folder / "errors")
    assert codes == [0] * size, (folder / "errors").read_text()


@pytest.mark.parametrize("size", [2, 3])
def test_torchrun_gives_the_same_bits(place, done, tmp_path, size):
    torchrun(size, tmp_path, settings(place))
    assert rows_of(tmp_path / "out", "seconds") == done
    torchrun(size, tmp_path, settings(place))  # it is there


@pytest.mark.parametrize("size", [2, 3])
def test_torchrun_names_the_question_whoever_finds_it(place, tmp_path, size):
    damaged(tmp_path)
    chosen = settings(tmp_path, benchmark=str(tmp_path / "q.parquet"), protocols=["letters-0shot"], max_batch_tokens=1)
    lines = tmp_path / "lines"

    def work(rank):
        try:
            execute(chosen, tmp_path / "out")
        except UserError as error:
            with lines.open("a") as file:
                file.write(f"{error}\n")
            raise SystemExit(2) from error

    codes = together(size, work, tmp_path / "errors")
    assert codes[0] == 2
    assert [line[:19] for line in lines.read_text().splitlines()] == ["question 'the-one':"]


def test_torchrun_goes_on_where_one_was_cut_off(place, done, tmp_path):
    execute(settings(place), tmp_path / "first", Machine(cache=str(tmp_path / "cache")))
    parts = sorted((tmp_path / "cache").rglob("*.parquet"))
    assert len(parts) >= 3
    for part in parts[::2]:
        part.unlink()
    torchrun(2, tmp_path, settings(place), Machine(cache=str(tmp_path / "cache")))
    assert rows_of(tmp_path / "out", "seconds") == done
    assert sorted((tmp_path / "cache").rglob("*.parquet")) == parts
    shutil.rmtree(tmp_path / "out")
    torchrun(2, tmp_path, settings(place), Machine(cache=str(tmp_path / "cache")))  # nothing is left to compute
    assert rows_of(tmp_path / "out", "seconds") == done


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_ray_gives_the_same_bits(place, done, tmp_path):
    execute(settings(place), tmp_path / "out", Machine(executor="ray", workers=2))
    assert rows_of(tmp_path / "out", "seconds") == done
