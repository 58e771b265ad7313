"""Questions found in texts, what is cut and what it costs; against naive versions and hand-worked cases."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from biomistral.corpus.cleaning import decontaminate
from biomistral.corpus.cleaning.gram_table import build_table, expand
from biomistral.corpus.cleaning.shingles import words_of
from biomistral.corpus.ledger import Ledger
from biomistral.records import Question

SENTENCE = "the quick brown fox jumps over the lazy dog while seven small grey mice watch it from below the old oak tree"


def question(identifier: str, stem: str, options: tuple[str, ...] = ("yes", "no"), context: str | None = None,
             task: str = "t") -> Question:
    return Question(id=identifier, task=task, stem=stem, options=options, answer="A", context=context)


def find(text: str, questions: list[Question], fields: tuple[str, ...] = ("stem", "option"), shortest: int = 5,
         **rest: Any) -> list[tuple[str, str, str]]:
    index = decontaminate.build_index(questions, fields, 13, shortest, **rest)
    return [(match.question, match.field, decontaminate.span(text, match)) for match in index.matches(text, words_of(text))]


@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**64 - 1]), max_size=60), st.lists(st.integers(0, 2**64 - 1)))
@settings(max_examples=100, deadline=None)
def test_table_finds_all_equals(known: list[int], asked: list[int]) -> None:
    keys = np.sort(np.array(known, np.uint64))
    hashes = np.array([*asked, *known[::2]], np.uint64)
    places, rows = build_table(keys).find(hashes)
    assert list(zip(places.tolist(), rows.tolist(), strict=True)) == [
        (place, row) for place, value in enumerate(hashes.tolist()) for row, key in enumerate(keys.tolist()) if key == value]


def test_table_of_many() -> None:
    generator = np.random.default_rng(0)
    keys = np.unique(generator.integers(0, 2**64, 20_000, np.uint64))
    asked = np.concatenate((generator.integers(0, 2**64, 50_000, np.uint64), keys[::3]))
    places, rows = build_table(keys).find(asked)
    assert np.array_equal(places, np.flatnonzero(np.isin(asked, keys)))
    assert np.array_equal(keys[rows], asked[places])


def test_expand() -> None:
    names, numbers = expand(np.array([7, 8, 9]), np.array([0, 4, 2]), np.array([2, 4, 5]))
    assert (names.tolist(), numbers.tolist()) == ([7, 7, 9, 9, 9], [0, 1, 2, 3, 4])


def test_thirteen_words_of_overlap() -> None:
    asked = question("q", f"Before. {SENTENCE}?")
    thirteen, twelve = " ".join(SENTENCE.split()[2:15]), " ".join(SENTENCE.split()[2:14])
    assert find(f"Intro. {thirteen.upper()}, end.", [asked]) == [("q", "stem", thirteen.upper())]
    assert find(f"Intro. {twelve}, end.", [asked]) == []
    assert find(f"A {SENTENCE} B", [asked]) == [("q", "stem", SENTENCE)]
    assert find("", [asked]) == find("A", [asked]) == []


def test_short_parts_match_as_a_whole_and_very_short_ones_never() -> None:
    asked = question("q", "Which vitamin is lacking in scurvy?", ("vitamin C", "a diet of salted meat and ship biscuit"))
    found = find("Q: which vitamin is lacking in scurvy? Vitamin C.", [asked])
    assert found == [("q", "stem", "which vitamin is lacking in scurvy")]
    assert find("Which vitamin is lacking in beriberi?", [asked]) == []
    assert [field for _, field, _ in find("He had a diet of salted meat and ship biscuit.", [asked])] == ["option"]
    assert find("He had a diet of salted meat and ship biscuit.", [asked], fields=("stem",)) == []


def test_short_stems_count_beside_their_answer() -> None:
    asked = question("q", "Which vitamin is lacking in scurvy?", ("vitamin C", "thiamine"))
    stem = "which vitamin is lacking in scurvy"
    for text, found in (
        (f"It was asked {stem}. Long ago VITAMIN-C was found.", True), (f"Vitamin C: {stem}?", True),
        (f"{stem}? Thiamine.", False),
        (f"Vitamin C.\n\nThen {stem}? Nobody knew.\n\nVitamin C.", False), (f"Why {stem}", False), ("vitamin C", False),
    ):
        assert find(text, [asked], shortest=8, with_answer=True) == ([("q", "stem", stem)] if found else []), text
        assert find(text, [asked], shortest=8) == []
    three, signs = question("r", "Scurvy lacks what?", ("vitamin C", "x")), question("s", "Charge of a free electron", ("-", "+"))
    assert find("Scurvy lacks what? Vitamin C. Charge of a free electron -", [three, signs], shortest=8, with_answer=True) == []


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=4, max_size=20), min_size=1, max_size=4),
       st.lists(st.sampled_from("abcd"), max_size=60), st.integers(4, 9), st.integers(9, 13))
@example([list("aaaa")], list("aaaaa"), 4, 9)
@settings(max_examples=150, deadline=None)
def test_matches_are_the_naive_ones(asked: list[list[str]], text: list[str], shortest: int, ngram: int) -> None:
    expected = set()
    for number, words in enumerate(asked):
        size = min(ngram, len(words))
        grams = {tuple(words[start:start + size]) for start in range(len(words) - size + 1)}
        if size >= shortest and any(tuple(text[start:start + size]) in grams for start in range(len(text) - size + 1)):
            expected.add(f"q{number}")
    index = decontaminate.build_index([question(f"q{number}", " ".join(words)) for number, words in enumerate(asked)], ("stem",),
                                      ngram, shortest)
    joined = " ".join(text)
    found = index.matches(joined, words_of(joined))
    assert {match.question for match in found} == expected
    for match in found:
        words, of = joined[match.start:match.end].split(), asked[int(match.question[1:])]
        size = min(ngram, len(of))  # runs that overlap are one match: of "a a a a" all of "a a a a a"
        grams = {tuple(of[start:start + size]) for start in range(len(of) - size + 1)}
        assert all(tuple(words[start:start + size]) in grams for start in range(len(words) - size + 1))


def test_every_question_that_holds_a_run_is_named() -> None:
    asked = [question(f"q{number}", SENTENCE, task=f"t{number % 2}") for number in range(5)]
    assert [name for name, _, _ in find(SENTENCE, asked)] == ["q0", "q2", "q4", "q1", "q3"]
    assert len(find(SENTENCE, [question(f"q{number}", SENTENCE) for number in range(200)])) == 50


def test_phrases_that_never_count() -> None:
    asked = question("q", SENTENCE)
    assert find(SENTENCE, [asked], except_for=[SENTENCE]) == []
    start, rest = SENTENCE.split()[:14], SENTENCE.split()[14:]
    assert find(" ".join(start), [asked], except_for=[" ".join(start)]) == []
    assert find(SENTENCE, [asked], except_for=[" ".join(start)]) == [("q", "stem", " ".join([*start[2:], *rest]))]


def test_index_on_the_disk_is_the_same(tmp_path: Path) -> None:
    asked = [question("\u00e9/1", SENTENCE, context="context " * 9), question("q2", "a b c d?", ("e f", "g"), task="u")]
    text = f"{SENTENCE}. A b c d? E f. " + "context " * 12
    made = [decontaminate.build_index(asked, ("stem", "context"), 13, 8, with_answer=True, folder=folder)
            for folder in (None, tmp_path / "index")]
    opened = [*made, decontaminate.open_index(tmp_path / "index"), *(pickle.loads(pickle.dumps(index)) for index in made)]
    assert len(pickle.dumps(made[1])) < 500
    matches = [index.matches(text, words_of(text)) for index in opened]
    assert len(matches[0]) == 3
    assert all(found == matches[0] for found in matches)
    assert [index.searched() for index in opened] == [{"t": 1, "u": 1}] * 5


def test_no_questions_that_can_be_looked_for() -> None:
    assert find(SENTENCE, []) == find(SENTENCE, [question("q", "why?")]) == []


# ---- cutting, and what it costs -------------------------------------------------------------------------------------


def test_cut_removes_the_paragraph_only() -> None:
    text = f"First paragraph.\n\nBefore. {SENTENCE}. After.\n\nLast paragraph."
    index = decontaminate.build_index([question("q", SENTENCE)], ("stem",), 13, 5)
    assert decontaminate.cut(text, index.matches(text, words_of(text))) == "First paragraph.\n\nLast paragraph."
    assert decontaminate.cut(text, []) == text


@given(st.lists(st.text("ab \n", max_size=12), max_size=6),
       st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8)), max_size=4))
@settings(max_examples=150, deadline=None)
def test_cut_is_the_naive_one(paragraphs: list[str], spans: list[tuple[int, int]]) -> None:
    paragraphs = [re.sub("\n\n+", "\n", paragraph).strip("\n") for paragraph in paragraphs]
    text = "\n\n".join(paragraphs)
    words = words_of(text)
    matches = [decontaminate.Match("q", "t", "stem", int(words.starts[first]), int(words.ends[min(first + more, len(words) - 1)]))
               for first, more in spans if first < len(words)]
    kept, start = [], 0
    for paragraph in paragraphs or [""]:
        end = start + len(paragraph)
        if not any(match.start < end and match.end > start for match in matches):
            kept.append(paragraph)
        start = end + 2
    assert decontaminate.cut(text, matches).split() == "\n\n".join(kept).split()


def test_losses_by_task() -> None:
    text = "one two three\n\nfour five\n\nsix\n\nseven"
    matches = [decontaminate.Match("q1", "a", "stem", 4, 7), decontaminate.Match("q2", "b", "stem", 15, 19),
               decontaminate.Match("q3", "a", "stem", 20, 27)]  # the last one reaches from "five" to "six"
    words = words_of(text)
    assert decontaminate.losses(text, words, matches, dropped=False) == [
        {"task": "", "words": 6, "alone": 6}, {"task": "a", "words": 6, "alone": 4}, {"task": "b", "words": 2, "alone": 0}]
    assert decontaminate.losses(text, words, matches, dropped=True) == [
        {"task": "", "words": 7, "alone": 7}, {"task": "a", "words": 7, "alone": 0}, {"task": "b", "words": 7, "alone": 0}]
    assert decontaminate.losses(text, words, matches[:1], dropped=True)[1] == {"task": "a", "words": 7, "alone": 7}


REPORT_SCHEMA = pa.schema([
    *((name, pa.string()) for name in ("id", "source", "licence", "language", "url", "reason", "detail")), ("words", pa.int32()),
    ("digest", pa.binary()), ("matches", pa.list_(decontaminate.MATCH)), ("losses", pa.list_(decontaminate.LOSS))])


def test_report(tmp_path: Path) -> None:
    asked = [question("q1", SENTENCE, task="one"), question("q2", "too short", task="one"), question("q1", SENTENCE, task="two"),
             question("q9", "another stem of nine words that nobody ever used", task="three")]
    index = decontaminate.build_index(asked, ("stem",), 13, 8)
    rows = []
    for name, text, policy in (("a", f"{SENTENCE} end", "drop"), ("b", f"{SENTENCE}\n\nfive words that will stay", "cut"),
                               ("c", "nothing in here", "drop")):
        words = words_of(text)
        matches = index.matches(text, words)
        refused = policy == "drop" and bool(matches)
        listed = [{"question": match.question, "task": match.task, "field": match.field, "span": decontaminate.span(text, match)}
                  for match in matches]
        left = 0 if refused else len(words_of(decontaminate.cut(text, matches)))
        losses = decontaminate.losses(text, words, matches, refused)
        rows.append({"id": name, "source": "s", "licence": "CC0-1.0", "language": "en", "words": left, "matches": listed,
                     "losses": losses, "reason": "contaminated" if refused else None})
    pq.write_table(pa.Table.from_pylist(rows, schema=REPORT_SCHEMA), tmp_path / "part.parquet", row_group_size=1)
    ledger = Ledger([tmp_path / "part.parquet"], [0], [False])
    decontaminate.write_report(tmp_path, ledger, index)
    report = json.loads((tmp_path / "decontamination.json").read_text())
    found = {"found": 1, "by_stem": 1, "by_context": 0, "by_option": 0, "documents": 2, "dropped": 1, "cut": 1}
    assert report["tasks"] == {
        "one": {"questions": 2, "too_short": 1, **found, "words_lost": 45, "words_lost_alone": 0},
        "two": {"questions": 1, "too_short": 0, **found, "words_lost": 45, "words_lost_alone": 0},
        "three": {"questions": 1, "too_short": 0, **dict.fromkeys(found, 0), "words_lost": 0, "words_lost_alone": 0}}
    assert {name: report[name] for name in ("questions", "too_short", "found", "documents", "words_lost", "words_kept")} == {
        "questions": 4, "too_short": 1, "found": 2, "documents": 2, "words_lost": 45, "words_kept": 8}
    assert report["spans"] == [{"span": SENTENCE, "documents": 2}]
    assert [tuple(row.values()) for row in pq.read_table(tmp_path / "decontamination.parquet").to_pylist()] == [
        (document, "q1", task, "stem", SENTENCE) for document in "ab" for task in ("one", "two")]


def test_report_without_a_benchmark(tmp_path: Path) -> None:
    decontaminate.write_report(tmp_path, Ledger([], [], []), None)
    assert pq.read_table(tmp_path / "decontamination.parquet").column_names == ["document", "question", "task", "field", "span"]
    assert not (tmp_path / "decontamination.json").exists()


@pytest.mark.parametrize("ngram", [5, 8, 13])
def test_repeated_runs_are_one_match_each(ngram: int) -> None:
    index = decontaminate.build_index([question("q", SENTENCE)], ("stem",), ngram, 5)
    text = f"{SENTENCE}. Other words. {SENTENCE}."
    assert [text[match.start:match.end] for match in index.matches(text, words_of(text))] == [SENTENCE] * 2
