"""Ensembles from recorded answers: the sum of probabilities answers, and only of answers to the same prompts."""

import json
import sys

import numpy as np
import pytest

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.records import LETTERS, read_rows
from biomistral.reporting.ensemble import ensemble
from biomistral.run import execute
from tiny import make_model
from tiny_questions import make_questions


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    make_questions(folder / "questions.parquet")
    for seed, name in enumerate(("one", "two")):
        make_model(folder / name, seed=seed, vocab_size=500)
        evaluate(folder, name, f"of-{name}")
    return folder


def evaluate(folder, model, out, **changes):
    execute(EvaluateSettings(**{"model": str(folder / model), "benchmark": str(folder / "questions.parquet"), "dtype": "float32",
                                "protocols": ["letters-3shot", "cloze-sum", "generate-0shot"], "shot_sets": 2, **changes}),
            folder / out)


def test_sums_of_probabilities_answer(place):
    found = ensemble([place / "of-one", place / "of-two"])
    assert list(found) == ["letters-3shot", "cloze-sum"]  # words have no probabilities
    one, two = ([row for row in read_rows(place / name / "answers.parquet") if row["protocol"] == "letters-3shot"]
                for name in ("of-one", "of-two"))
    right = [LETTERS[int(np.argmax(np.add(a["probabilities"], b["probabilities"])))] == a["answer"]
             for a, b in zip(one, two, strict=True)]
    assert found["letters-3shot"]["ensemble"]["overall"]["accuracy"] == pytest.approx(np.mean(right))
    alone = json.loads((place / "of-two" / "results.json").read_text())["protocols"]["letters-3shot"]
    assert found["letters-3shot"]["members"]["two"]["average"] == pytest.approx(alone["average"])


def test_the_originals_sums_weigh_a_model_by_its_letter_mass(place):
    one, two = ([row for row in read_rows(place / name / "answers.parquet") if row["protocol"] == "letters-3shot"]
                for name in ("of-one", "of-two"))
    right = [LETTERS[int(np.argmax(np.multiply(a["probabilities"], a["letter_mass"])
                                   + np.multiply(b["probabilities"], b["letter_mass"])))] == a["answer"]
             for a, b in zip(one, two, strict=True)]
    found = ensemble([place / "of-one", place / "of-two"], by="mass")
    assert found["letters-3shot"]["ensemble"]["overall"]["accuracy"] == pytest.approx(np.mean(right))
    assert found["cloze-sum"] == ensemble([place / "of-one", place / "of-two"])["cloze-sum"]  # no letters, no mass


def test_a_model_with_itself_is_itself(place):
    both = ensemble([place / "of-one", place / "of-one"])["cloze-sum"]
    assert all(scores["overall"]["right"] == both["ensemble"]["overall"]["right"] for scores in both["members"].values())


def test_answers_to_other_questions_are_refused(place):
    evaluate(place, "two", "short", limit=3, protocols=["cloze-sum"])
    evaluate(place, "two", "other", protocols=["cloze-mean"])
    with pytest.raises(UserError, match="was not asked alike under cloze-sum"):
        ensemble([place / "of-one", place / "short"])
    with pytest.raises(UserError, match="no protocol with probabilities in common"):
        ensemble([place / "of-one", place / "other"])
    with pytest.raises(UserError, match="two results folders"):
        ensemble([place / "of-one"])


def test_the_command_prints_members_and_ensemble(place, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["biomistral", "ensemble", str(place / "of-one"), str(place / "of-two")])
    with pytest.raises(SystemExit):
        main()
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["letters-3shot:", "one", "two", "ensemble", "cloze-sum:", "one", "two", "ensemble"]
