"""Quality filters: every reason on a text made for it, measures against naive ones, and thresholds that can be turned off."""

import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.corpus.cleaning import filters, repetition
from biomistral.corpus.cleaning.filters import View, quality
from biomistral.corpus.cleaning.shingles import words_of
from biomistral.corpus.settings import CorpusSettings, FilterSettings

SENTENCE = "the quick brown fox jumps over the lazy dog while seven small grey mice watch it from below the old oak tree"
VOCABULARY = re.findall(
    r"\w+", "patient treatment showed significant increase in serum levels compared with controls after two weeks of therapy "
    "although adverse events were rare and mild most often headache nausea fatigue dizziness reported by women")


def prose(sentences: int = 30, seed: int = 0) -> str:
    """Sentences of random words, in paragraphs."""
    generator = random.Random(seed)
    made = [" ".join(generator.choices(VOCABULARY, k=14)).capitalize() + "." for _ in range(sentences)]
    return "\n\n".join(" ".join(made[start:start + 3]) for start in range(0, sentences, 3))


def reason_of(text: str, min_words: int = 20, **changed: Any) -> str | None:
    chosen = CorpusSettings.model_validate(
        {"sources": ["x"], "tokenizer": "y", "min_words": min_words, "filters": changed})
    found = quality(text, words_of(text), chosen)
    return found[0] if found else None


def misread(text: str) -> str:
    """As a bad scan is read: letters taken for digits."""
    return text.translate(str.maketrans("ieos", "1305"))


WEB = ("This website uses cookies\n\nPlease enable JavaScript\n\nLogin\n\nDownload PDF\n\nSubscribe to our newsletter\n\n"
       "Copyright 2019 The Publisher\n\nAll rights reserved\n\nISSN 1234-5678\n\nReceived 3 May 2010; accepted 4 June 2010")

BAD = [
    (SENTENCE, 50, "too_short"),
    (" ".join(f"{number}.{number}" for number in range(100)), 20, "not_prose"),
    ("\n".join(f"{n}. Smith A, Jones B. A study of number {n}. J Test 2015;{n}:1-9." for n in range(1, 30)), 20, "references"),
    ("\n".join(f"Gene{'abcdefghijkl'[n % 12] * 3} | up | {VOCABULARY[n % 20]} | yes" for n in range(60)), 20, "tables"),
    (" ".join(" ".join(word) for word in prose().split()), 20, "ocr"),
    (misread(prose()), 20, "ocr"),
    (prose().replace("in", "\ufffd").replace("er", "\ufffd"), 20, "ocr"),
    (" ".join(f"{word} (cid:{number})" for number, word in enumerate(prose().split())), 20, "ocr"),
    (" ".join(word.translate(str.maketrans("aeiou", "rtlnm")) for word in prose().split()), 20, "ocr"),
    ("\n\n".join(f"Chapter on {word} {'.' * 9} x" for word in VOCABULARY), 20, "symbols"),
    ("\n\n".join(f"Read more about {word} and other things that we wrote on it…" for word in VOCABULARY), 20, "symbols"),
    ("\n".join(f"- {sentence}" for sentence in prose().replace("\n\n", " ").split(". ")), 20, "bullets"),
    (WEB, 20, "boilerplate"),
    (f"{SENTENCE}\n\n" * 10, 20, "repetitive"),
    (" ".join([SENTENCE] * 10), 20, "repetitive"),
    (" ".join(f"of the {word}" for word in VOCABULARY * 3), 20, "repetitive"),
    (" ".join("".join(VOCABULARY[start:start + 3]) for start in range(30)), 20, "word_length"),
    ("ab cd e f a ge ii oo u aa o eu io", 5, "word_length"),
]


@pytest.mark.parametrize(("text", "min_words", "reason"), BAD, ids=[reason for _, _, reason in BAD])
def test_bad_texts(text: str, min_words: int, reason: str) -> None:
    assert reason_of(text, min_words) == reason


OFF = {name: None for name in FilterSettings.model_fields if name != "retracted"}


@pytest.mark.parametrize(("text", "min_words", "reason"), BAD[1:])
def test_null_turns_a_filter_off(text: str, min_words: int, reason: str) -> None:
    assert reason_of(text, min_words, **OFF) is None


@pytest.mark.parametrize("text", [
    prose(), prose(300),
    f"{SENTENCE} and then some more words that make this long enough to be kept by every one of the filters here",
    # a table in an article, a list of two studies, gene names, formulas, an acknowledgement with a year
    prose() + "\n\n" + "\n".join(f"{number} | {number * 3} | {number / 7:.2f}" for number in range(20)),
    prose() + "\n\n1. Smith A et al. A study. 2015.\n\n2. Jones B et al. Another. 2016.",
    prose() + " Os01g0611000 and LOC_Os03g12345 interact with IL-6, p53, C57BL6J, H2O and CO2; x y z = a b c.",
    prose() + "\n\nThis article is copyright 2015 of the authors.",
    "糖尿病是一种慢性疾病。患者需要长期治疗和随访。本研究比较了两组患者的血压、血糖和体重,结果显示差异显著。",
    "ผู้ป่วยโรคเบาหวานควรได้รับการรักษาอย่างต่อเนื่อง และควรตรวจวัดความดันโลหิต ระดับน้ำตาลในเลือด ทุกเดือน",
    "Čtvrtý vrchol čtvrtletí: vlk zmrzl, prst krt strč skrz krk, smrt čtvrthrst zrn, " + prose(9),
])
def test_good_texts(text: str) -> None:
    assert reason_of(text, 10) is None


def test_longest_document() -> None:
    assert reason_of(prose(30), words=100) == "too_long"
    assert reason_of(prose(30), words=10_000) is None


def test_empty_text() -> None:
    assert reason_of("", 1) == "too_short"


# ---- against naive versions -------------------------------------------------------------------------------------------

SHORT = st.text(alphabet="ab1 .\n|-#…\ufffd日é", max_size=80)


@given(SHORT)
@settings(max_examples=200, deadline=None)
def test_shares_are_the_naive_ones(text: str) -> None:
    view = View(text, words_of(text))
    visible = [character for character in text if not character.isspace()]
    lines = [line for line in text.split("\n") if line]
    letters = sum(character.isalpha() for character in visible)
    assert filters.other_characters(view, 0.5) == pytest.approx(1 - letters / max(1, len(visible)))
    assert filters.table_characters(view, 0.5) == pytest.approx(sum(len(x) for x in lines if " | " in x) / max(1, len(text)))
    assert filters.bullet_lines(view, 0.5) == pytest.approx(sum(x.startswith("- ") for x in lines) / max(1, len(lines)))
    copies = len(lines) - len(set(lines))
    assert filters.repeated_lines(view, 0.5) == pytest.approx(copies / max(1, len(lines)))
    paragraphs = text.split("\n\n")
    share = (len(paragraphs) - len(set(paragraphs))) / len(paragraphs)
    assert filters.repeated_paragraphs(view, 0.0) >= 0
    if all(paragraph.strip("\n") for paragraph in paragraphs):  # as every text of the corpus is
        for most in (0.0, 0.3, 0.5):
            assert (filters.repeated_paragraphs(view, most) > most) == (share > most)


def naive_spaced(names: list[str]) -> int:
    single = [len(name) == 1 and name.isalpha() and ord(name) < 0x530 for name in names]
    return sum(all(single[start:start + 4]) for start in range(len(names) - 3))


@given(st.text(alphabet="ab1b \u65e5", max_size=60))
@settings(max_examples=200, deadline=None)
def test_spaced_letters_are_the_naive_ones(text: str) -> None:
    words = words_of(text)
    names = [text[start:end] for start, end in zip(words.starts, words.ends, strict=True)]
    assert filters._spaced_letters(View(text, words)) == naive_spaced(names)


@given(st.text(alphabet="bcdTa", max_size=40))
@settings(max_examples=200, deadline=None)
def test_consonant_runs_are_the_naive_ones(text: str) -> None:
    runs = sum(len(run) >= 6 for run in "".join(letter if letter in "bcd" else " " for letter in text).split(" "))
    assert filters._consonant_runs(View(text, words_of(text)).classes) == runs


def naive_covered(names: list[int], size: int) -> float:
    grams = [tuple(names[start:start + size]) for start in range(len(names) - size + 1)]
    count = Counter(grams)
    covered = {place for start, gram in enumerate(grams) if count[gram] > 1 for place in range(start, start + size)}
    return len(covered) / max(1, len(names))


def naive_top(names: list[int], size: int) -> float:
    count = Counter(tuple(names[start:start + size]) for start in range(len(names) - size + 1))
    most = max(count.values(), default=0)
    return size * most / max(1, len(names)) if most > 1 else 0.0


@given(st.lists(st.integers(0, 3), max_size=70), st.lists(st.floats(0, 1), min_size=6, max_size=6))
@settings(max_examples=300, deadline=None)
def test_repeated_sequences_are_the_naive_ones(names: list[int], most: list[float]) -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 4, np.uint64)[np.array(names, int)]
    expected = next(((size, share) for size, limit in zip(range(5, 11), most, strict=True)
                     if (share := naive_covered(names, size)) > limit), None)
    found = repetition.repeated_ngrams(words, range(5, 11), most)
    assert found == (None if expected is None else (expected[0], pytest.approx(expected[1])))


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.floats(0, 2), min_size=3, max_size=3))
@settings(max_examples=300, deadline=None)
def test_most_frequent_sequences_are_the_naive_ones(names: list[int], most: list[float]) -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 4, np.uint64)[np.array(names, int)]
    expected = next(((size, share) for size, limit in zip(range(2, 5), most, strict=True)
                     if (share := naive_top(names, size)) > limit), None)
    found = repetition.top_ngrams(words, range(2, 5), most)
    assert found == (None if expected is None else (expected[0], pytest.approx(expected[1])))
