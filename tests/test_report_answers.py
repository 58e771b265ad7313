"""What the detail pages compute: answers read small, agreement against its definition, difficulty."""

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from biomistral.records import ANSWER_SCHEMA, write_table
from biomistral.reporting.agreement import agreement, difficulty, examples
from biomistral.reporting.answers import NONE, STEPS, AnswerReader, spans

ROW = {"model": "m", "protocol": "p", "language": "en", "shot_set": 0, "group": "", "options": 3, "answer": "A", "chosen": "A",
       "right": True, "probabilities": [0.5, 0.3, 0.2]}


def _written(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir()
    write_table(folder / "answers.parquet", [ROW | row for row in rows], ANSWER_SCHEMA)
    return folder


def test_answers_come_in_the_order_of_task_language_and_question(tmp_path: Path) -> None:
    folder = _written(tmp_path / "one", [
        {"task": "b", "question": "1", "chosen": "C", "right": False}, {"task": "a", "question": "2", "language": "pt"},
        {"task": "a", "question": "2"}, {"task": "a", "question": "10", "options": 2, "probabilities": [0.25, 0.75]},
        {"task": "a", "question": "10", "protocol": "other"}])
    answers = AnswerReader().read(folder, "p")
    assert list(answers.questions) == ["10", "2", "2", "1"]
    assert answers.chosen.tolist() == [0, 0, 0, 2]
    assert answers.share.tolist() == [STEPS, STEPS, STEPS, 0]
    assert answers.probabilities.tolist()[0] == [50, 150, NONE]
    tasks, languages = (np.array(names, dtype=object) for names in (["a", "a", "a", "b"], ["en", "en", "pt", "en"]))
    assert list(spans(tasks, languages)) == [(("a", "en"), slice(0, 2)), (("a", "pt"), slice(2, 3)), (("b", "en"), slice(3, 4))]


def test_permuted_answers_are_told_by_their_published_letters(tmp_path: Path) -> None:
    turned = {"permutation": 1, "order": [2, 0, 1]}  # shown A is the published C
    folder = _written(tmp_path / "one", [
        {"task": "t", "question": "q", "answer": "B", "chosen": "A", "right": False, "probabilities": [0.6, 0.3, 0.1]},
        {"task": "t", "question": "q", **turned, "answer": "C", "chosen": "A", "right": False, "probabilities": [0.8, 0.2, 0.0]},
        {"task": "t", "question": "q", "shot_set": 1, **turned, "answer": "C", "chosen": "A", "right": False,
         "probabilities": None}])
    answers = AnswerReader().read(folder, "p")
    assert (answers.answer[0], answers.chosen[0], answers.ways) == (1, 2, 3), "two of three answers are the published C"
    assert answers.probabilities[0].tolist() == [80, 30, 90], "means over the answers that have probabilities"


def test_answers_in_words_may_be_none(tmp_path: Path) -> None:
    folder = _written(tmp_path / "one", [{"task": "t", "question": "q", "chosen": "", "right": False, "probabilities": None,
                                          "said": "لا <b>"}])
    answers = AnswerReader().read(folder, "p")
    assert answers.chosen.tolist() == [NONE]
    assert answers.said is not None
    assert answers.said.tolist() == ["لا <b>"]
    assert answers.probabilities.shape == (1, 0)


def test_a_second_model_is_read_alike_whatever_the_order_of_its_rows(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"task": "t", "question": str(number), "chosen": "ABC"[number % 3]} for number in range(7)]
    reader = AnswerReader()
    first = reader.read(_written(tmp_path / "one", rows), "p")
    for name, again in (("two", rows), ("three", rows[::-1])):
        assert reader.read(_written(tmp_path / name, again), "p").chosen.tolist() == first.chosen.tolist()


@given(st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(st.sampled_from([0, 1, 2, NONE]), min_size=n, max_size=n),
                                                    min_size=1, max_size=3)))
def test_agreement_is_what_cohen_defines(chosen: list[list[int]]) -> None:
    same, kappa = agreement(np.array(chosen, dtype=np.uint8))
    for one, row in enumerate(chosen):
        for other, column in enumerate(chosen):
            observed = np.mean([a == b != NONE for a, b in zip(row, column, strict=True)])
            mine, theirs = Counter(row), Counter(column)
            expected = sum(mine[letter] * theirs[letter] for letter in range(3)) / len(row) ** 2
            assert abs(same[one, other] - observed) < 1e-6
            assert np.isnan(kappa[one, other]) if expected == 1 else (
                abs(kappa[one, other] - (observed - expected) / (1 - expected)) < 1e-5)


def test_difficulty_counts_every_question_once() -> None:
    shares = np.array([[0, 200, 200, 100], [0, 200, 0, 100]], dtype=np.uint8)
    found = difficulty(shares, bins=4)
    assert (found.counts, found.by_none, found.by_all, found.mean) == ([1, 0, 2, 1], 1, 1, 0.5)
    assert examples(shares) == [1, 3, 0] or examples(shares) == [1, 2, 0]
    assert examples(shares[:, :1]) == [0]
