"""MedQA-USMLE (Jin et al., 2020, arXiv 2009.13081): JSON Lines as released and the hub's three layouts."""

from collections.abc import Iterator
from functools import partial

from biomistral.benchmarks.published.draft import Draft, Refusal, attempt
from biomistral.benchmarks.published.files import DataFile, Row
from biomistral.records import LETTERS, Question

TASKS = ("medqa_4", "medqa_5")
_ENDINGS = tuple(f"ending{number}" for number in range(5))


def recognises(file: DataFile) -> bool:
    """``options`` by letter or as key and value with ``answer_idx``; or ``sent1`` with endings and a ``label``."""
    return file.first.keys() >= {"question", "options", "answer_idx"} or file.first.keys() >= {"sent1", "ending0", "label"}


def read(files: list[DataFile], root: int) -> Iterator[Question | Refusal]:
    """Four options make ``medqa_4``, five ``medqa_5``. ``root`` decides nothing here."""
    for file in files:
        for number, (place, row) in enumerate(file.rows()):
            yield attempt(place, partial(_question, file, number, row, place))


def _question(file: DataFile, number: int, row: Row, place: str) -> Question | Refusal:
    split = {"dev": "validation"}.get(file.split or "", file.split)
    if split is None:
        return Refusal(place, "neither the file's name nor its folder's says a split (train, dev, test)")
    if "sent1" in row:
        stem = " ".join(part for part in (str(row["sent1"]), str(row.get("sent2") or "")) if part.strip())
        options, answer = [str(row[name]) for name in _ENDINGS if row.get(name) is not None], int(row["label"])
    else:
        stem, letters, options = str(row["question"]), *_lettered(row["options"])
        if letters != list(LETTERS[:len(letters)]):
            return Refusal(place, f"its options are lettered {letters}")
        answer = letters.index(row["answer_idx"]) if row["answer_idx"] in letters else -1
        if answer >= 0 and row.get("answer") not in (None, "", options[answer]):
            return Refusal(place, f"its answer is {row['answer']!r}, but option {row['answer_idx']} is {options[answer]!r}")
    if len(options) not in (4, 5):
        return Refusal(place, f"{len(options)} options; MedQA has 4 or 5")
    meta = {"step": row["meta_info"]} if row.get("meta_info") else {}
    return Draft(f"medqa_{len(options)}", split, f"{split}/{number}", stem, options, answer, meta=meta).question(place)


def _lettered(options: object) -> tuple[list[str], list[str]]:
    """Letters and texts, of an object by letter (Parquet gives absent ones as null) or a list of keys and values."""
    if isinstance(options, dict):
        pairs = sorted((letter, text) for letter, text in options.items() if text is not None)
    elif isinstance(options, list):
        pairs = [(entry["key"], entry["value"]) for entry in options]
    else:
        raise TypeError(f"options are {options!r}")
    return [letter for letter, _ in pairs], [str(text) for _, text in pairs]
