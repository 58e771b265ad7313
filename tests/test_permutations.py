"""Options in another order: every permutation is asked, mapped back, counted as the same question, and answers together."""

import itertools
import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.evaluation import computing
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.evaluation.summary import sensitivity, summarise
from biomistral.records import LETTERS, Question, read_questions, read_rows, write_questions
from biomistral.reporting.compare import compare
from biomistral.reporting.ensemble import ensemble
from biomistral.reporting.results import read_results
from biomistral.run import execute
from biomistral.scoring.permutations import orders, permuted, published_letter, published_probabilities
from biomistral.statistics import cluster_interval
from tiny import make_model
from tiny_questions import make_questions

PROTOCOLS = ["letters-3shot", "medconceptsqa-0shot", "cloze-sum", "chat-0shot", "generate-0shot"]


def question(options=4, answer="B", name="q"):
    texts = tuple(f"option {number}" for number in range(options))
    return Question(id=name, task="t", stem="What?", options=texts, answer=answer)


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 5))
def test_orders_are_distinct_while_there_are_others_and_only_added_to(options, count, root):
    found = orders(question(options), count, root)
    assert found[0] == tuple(range(options))
    assert all(sorted(order) == list(range(options)) for order in found)
    fresh = found[: math.factorial(options)]
    assert len(set(fresh)) == len(fresh)
    assert orders(question(options), count + 3, root)[:count] == found


def test_questions_have_orders_of_their_own():
    assert orders(question(name="one"), 9, 0) != orders(question(name="two"), 9, 0) != orders(question(name="two"), 9, 1)


@given(st.integers(2, 5), st.data())
def test_what_is_mapped_back_is_what_was_shown(options, data):
    one = question(options, data.draw(st.sampled_from(LETTERS[:options])))
    for put in permuted([one], 7, root=3):
        row = {"order": put.meta.get("order"), "probabilities": [float(option[-1]) for option in put.options]}
        assert published_letter(row, put.answer) == one.answer
        assert put.options[put.answer_index] == one.options[one.answer_index]
        assert published_probabilities(row) == [float(number) for number in range(options)]
        assert all(one.options[LETTERS.index(published_letter(row, letter))] == option
                   for letter, option in zip(put.letters, put.options, strict=True))
    assert published_letter({"order": [1, 0]}, "") == ""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("permutations")
    make_questions(folder / "questions.parquet", train=4, validation=1, test=6)
    for seed, name in enumerate(("one", "two")):
        make_model(folder / name, seed=seed, vocab_size=500)
        run(folder, f"of-{name}", model=str(folder / name))
    return folder


def run(place, out, **changes):
    execute(EvaluateSettings(**{"model": str(place / "one"), "benchmark": str(place / "questions.parquet"), "dtype": "float32",
                                "protocols": PROTOCOLS, "shot_sets": 2, "permutations": 3, **changes}), place / out)
    return rows_of(place / out)


def rows_of(folder):
    return list(read_rows(folder / "answers.parquet"))


def test_every_question_is_asked_in_every_order_and_the_first_is_the_published_one(place):
    rows = rows_of(place / "of-one")
    published = {question.id: question for question in read_questions(place / "questions.parquet")}
    asked = [(row["protocol"], row["shot_set"], row["permutation"]) for row in rows]
    assert list(dict.fromkeys(asked)) == [
        *itertools.product(["letters-3shot"], (0, 1), (0, 1, 2)), *itertools.product(["medconceptsqa-0shot"], (0,), (0, 1, 2)),
        ("cloze-sum", 0, 0), *itertools.product(["chat-0shot", "generate-0shot"], (0,), (0, 1, 2))]
    for row in rows:
        assert (row["order"] is None) == (row["permutation"] == 0)
        assert published_letter(row, row["answer"]) == published[row["question"]].answer
    plain = run(place, "plain", permutations=1)
    for mine, other in zip(plain, [row for row in rows if not row["permutation"]], strict=True):
        assert mine["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
        assert (mine["prompt_hash"], mine["chosen"]) == (other["prompt_hash"], other["chosen"])


def test_results_say_what_the_order_changes_and_count_a_question_once(place):
    rows = [row for row in rows_of(place / "of-one") if row["protocol"] == "medconceptsqa-0shot"]
    found = json.loads((place / "of-one" / "results.json").read_text())["protocols"]
    score = found["medconceptsqa-0shot"]
    right = np.array([[row["right"] for row in rows if row["question"] == name]
                      for name in dict.fromkeys(row["question"] for row in rows)])
    assert right.shape == (12, 3)
    assert score["overall"]["n"] == 12
    assert score["overall"]["right"] == pytest.approx(right.mean() * 12)
    assert score["overall"]["interval"] == pytest.approx(cluster_interval(right))
    assert score["permutations"]["accuracies"] == pytest.approx(right.mean(axis=0))
    assert found["cloze-sum"]["permutations"] is None
    assert score["shot_sets"] is None
    assert all(len(found["letters-3shot"][way]["accuracies"]) == count for way, count in (("shot_sets", 2), ("permutations", 3)))
    assert json.loads(json.dumps(summarise(rows_of(place / "of-one")))) == found
    assert {name: run.permutations for name, run in read_results(place / "of-one").runs.items()}["medconceptsqa-0shot"] == 3


def test_sensitivity_by_hand():
    """Two questions in three orders: one answered by place (always A), one by its text (always the published B)."""
    ways = [[0, 1, 2], [1, 0, 2], [2, 1, 0]]
    rows = [{"question": "place", "chosen": "A", "answer": "ABC"[order.index(0)], "order": order} for order in ways]
    rows += [{"question": "text", "chosen": "ABC"[order.index(1)], "answer": "A", "order": order} for order in ways]
    rows = [{**row, "permutation": number % 3, "shot_set": 0, "right": row["chosen"] == row["answer"]}
            for number, row in enumerate(rows)]
    assert sensitivity(rows, "permutation", "shot_set") == {
        "accuracies": [0.5, 0.5, 0.0], "changed": 0.5, "consistency": pytest.approx((1 / 3 + 1) / 2)}


def test_cut_off_and_run_again_asks_only_what_is_missing(place, monkeypatch):
    asked = []
    plain = computing.answer_rows

    def counted(engine, prefix, group, batch, tokenizer, name):
        if len(asked) == 12:
            raise KeyboardInterrupt
        asked.append(len(batch))
        return plain(engine, prefix, group, batch, tokenizer, name)

    monkeypatch.setattr(computing, "answer_rows", counted)
    changes = {"protocols": ["letters-0shot"], "max_batch_tokens": 1}
    with pytest.raises(KeyboardInterrupt):
        run(place, "cut", **changes)
    monkeypatch.setattr(computing, "answer_rows", plain)
    again = run(place, "cut", **changes)
    assert len(again) == 36
    straight = run(place, "straight", **changes)
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in straight]


def test_permutations_of_one_model_answer_together(place):
    found = ensemble([place / "of-one"], permutations=True)
    assert list(found) == ["letters-3shot", "medconceptsqa-0shot", "cloze-sum", "chat-0shot"]
    rows = [row for row in rows_of(place / "of-one") if row["protocol"] == "medconceptsqa-0shot"]
    answers = {question.id: question.answer for question in read_questions(place / "questions.parquet")}
    for by in ("probability", "vote"):
        right = []
        for name in dict.fromkeys(row["question"] for row in rows):
            own = [row for row in rows if row["question"] == name]
            sums = np.sum([published_probabilities(row) for row in own], axis=0)
            votes = [sum(published_letter(row, row["chosen"]) == letter for row in own) for letter in "ABCD"]
            best = max(range(4), key=lambda place: (votes[place] if by == "vote" else 0, sums[place]))
            right.append("ABCD"[best] == answers[name])
        scores = ensemble([place / "of-one"], permutations=True, by=by)["medconceptsqa-0shot"]
        assert scores["ensemble"]["overall"]["accuracy"] == pytest.approx(np.mean(right))
        assert scores["ensemble"]["overall"]["n"] == scores["members"]["one"]["overall"]["n"] == 12
    assert "generate-0shot" in ensemble([place / "of-one"], permutations=True, by="vote")


def test_models_and_permutations_answer_together_or_models_alone(place):
    both = ensemble([place / "of-one", place / "of-two"], permutations=True)["medconceptsqa-0shot"]
    assert list(both["members"]) == ["one", "two"]
    alone = ensemble([place / "of-one", place / "of-two"])["medconceptsqa-0shot"]
    assert both["ensemble"]["overall"]["n"] == alone["ensemble"]["overall"]["n"] == 12
    with pytest.raises(UserError, match="asked in one order of the options; evaluate with --permutations"):
        ensemble([place / "plain"], permutations=True)
    with pytest.raises(UserError, match="was not asked alike"):
        ensemble([place / "of-one", place / "plain"])


def test_other_numbers_of_permutations_are_not_compared(place):
    rows = compare(place / "of-one", [place / "of-two"])
    assert {row["n"] for row in rows if row["scope"] == "overall"} == {12}
    run(place, "letters", protocols=["medconceptsqa-0shot"], permutations=1)
    with pytest.raises(UserError, match=r"the number of permutations differs \(1 and 3\)"):
        compare(place / "letters", [place / "of-two"])


def test_a_question_too_long_behind_one_of_the_shot_sets_is_left_out_of_all(place, tmp_path):
    shots = [Question(id=f"s{number}", task="t", split="dev", stem="heart " * (150 if number else 20), options=("a", "b"),
                      answer="A") for number in range(4)]
    asked = [Question(id=f"q{number}", task="t", stem="lung " * (20 * number + 1), options=("a", "b", "c"), answer="A")
             for number in range(4)]
    write_questions(tmp_path / "long.parquet", [*shots, *asked])
    rows = run(place, "long", benchmark=str(tmp_path / "long.parquet"), protocols=["letters-3shot"], too_long="drop", shot_sets=3)
    left = json.loads((place / "long" / "results.json").read_text())["left_out"]
    assert left
    assert {shot_set for _, shot_set, *_ in left} == {0, 1, 2}
    assert len(rows) == 9 * (4 - len(left) // 3)
    read_results(place / "long")


def test_the_command_line_asks_and_prints(place, capsys, monkeypatch):
    options = ["--model", str(place / "one"), "--suite", str(place / "questions.parquet"), "--dtype", "float32"]
    lines = command(capsys, monkeypatch, "evaluate", *options, "--protocols", "medconceptsqa-0shot", "--permutations", "2",
                    "--out", str(place / "printed"))
    changed = json.loads((place / "printed" / "results.json").read_text())["protocols"]["medconceptsqa-0shot"]["permutations"]
    assert f"answers that change with permutations             {100 * changed['changed']:.1f}" in lines
    assert any(line.startswith("all questions, by permutations") for line in lines)
    lines = command(capsys, monkeypatch, "ensemble", str(place / "printed"), "--permutations", "--by", "vote")
    assert [line.split()[0] for line in lines] == ["medconceptsqa-0shot:", "one", "ensemble"]


def command(capsys, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["biomistral", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    return capsys.readouterr().out.splitlines()
