"""Small benchmarks for the training tests: questions about codes, in every split, of two tasks."""

from pathlib import Path

from biomistral.records import LETTERS, Question, write_questions

FACTS = {"E11.9": "type 2 diabetes mellitus", "I10": "essential hypertension", "R50": "fever", "N18": "chronic kidney disease",
         "R05": "cough", "R52": "acute pain", "K76": "liver disease", "I50": "heart disease"}


def question(split: str, task: str, number: int, stem: str = "What is {code}?") -> Question:
    """Question ``number`` of a split and task; no two are the same."""
    codes = list(FACTS)
    code = codes[number % len(codes)]
    others = [FACTS[codes[(number + step) % len(codes)]] for step in (1, 2, 3)]
    place = (number + number // len(codes)) % 4
    options = [*others[:place], FACTS[code], *others[place:]]
    wording = stem.format(code=code) + ("" if number < len(codes) else f" Case {number}.")
    return Question(id=f"{task}/{split}/{number}", task=task, split=split, stem=f"{split.capitalize()}, {task}: {wording}",
                    options=tuple(options), answer=LETTERS[place], context="ÄÖÜ 中文 fever." if task == "signs" else None)


def make_questions(path: Path, train: int = 16, validation: int = 8, test: int = 8) -> Path:
    """A questions file (Parquet) of tasks ``codes`` and ``signs``, each with as many questions in each split."""
    sizes = {"dev": 4, "train": train, "validation": validation, "test": test}
    write_questions(path, [question(split, task, number) for task in ("codes", "signs") for split, size in sizes.items()
                           for number in range(size)])
    return path
