"""A suite of published benchmarks: which files belong to it, how many questions each task is known to have."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from biomistral.benchmarks.published import bioinstructqa, medmcqa, medqa, mmlu, multilingual, pubmedqa, truthfulqa, xmedbench
from biomistral.benchmarks.published.draft import Refusal
from biomistral.benchmarks.published.files import DataFile, data_files
from biomistral.errors import UserError
from biomistral.records import Question

Sizes = dict[str, int]


@dataclass(frozen=True)
class Source:
    """A published benchmark: how its files are told and read, its tasks, licence, and where it is described."""

    recognises: Callable[[DataFile], bool]
    read: Callable[[list[DataFile], int], Iterator[Question | Refusal]]
    tasks: tuple[str, ...]
    licence: str
    paper: str


SOURCES = {
    "mmlu": Source(mmlu.recognises, mmlu.read, mmlu.TASKS, "MIT", "arXiv 2009.03300"),
    "medqa": Source(medqa.recognises, medqa.read, medqa.TASKS, "MIT", "arXiv 2009.13081"),
    "pubmedqa": Source(pubmedqa.recognises, pubmedqa.read, pubmedqa.TASKS, "MIT", "arXiv 1909.06146"),
    "medmcqa": Source(medmcqa.recognises, medmcqa.read, medmcqa.TASKS, "MIT", "arXiv 2203.14371"),
    "truthfulqa": Source(truthfulqa.recognises, truthfulqa.read, truthfulqa.TASKS, "Apache-2.0", "arXiv 2109.07958"),
    "bioinstructqa": Source(bioinstructqa.recognises, bioinstructqa.read, bioinstructqa.TASKS, "Apache-2.0", "arXiv 2402.10373"),
    "mmmlu": Source(multilingual.is_mmmlu, multilingual.read_mmmlu, mmlu.TASKS, "MIT", "arXiv 2009.03300"),
    "global_mmlu": Source(multilingual.is_global, multilingual.read_global, mmlu.TASKS, "Apache-2.0", "arXiv 2412.03304"),
    "xmedbench": Source(xmedbench.recognises, xmedbench.read, xmedbench.TASKS, "as its sources", "arXiv 2403.03640"),
}
SUITES = {"biomistral": ("mmlu", "medqa", "pubmedqa", "medmcqa"), "mmlu_medical": ("mmlu",), "truthfulqa": ("truthfulqa",),
          "bioinstructqa": ("bioinstructqa",), "mmmlu": ("mmmlu",), "global_mmlu": ("global_mmlu",), "xmedbench": ("xmedbench",)}
_OF_LANGUAGE = {"bioinstructqa": bioinstructqa.of_language, "mmmlu": multilingual.of_language,
                "global_mmlu": multilingual.of_language, "xmedbench": xmedbench.of_language}

_MMLU = {"clinical_knowledge": (5, 29, 265), "medical_genetics": (5, 11, 100), "anatomy": (5, 14, 135),
         "professional_medicine": (5, 31, 272), "college_biology": (5, 16, 144), "college_medicine": (5, 22, 173)}
SIZES: dict[str, Sizes] = {
    **{f"mmlu_{subject}": dict(zip(("dev", "validation", "test"), sizes, strict=True)) for subject, sizes in _MMLU.items()},
    **{task: {"train": 10178, "validation": 1272, "test": 1273} for task in medqa.TASKS},
    "pubmedqa": {"train": 211269, "validation": 500, "test": 500},
    "medmcqa": {"train": 146257, "validation": 36565, "test": 4183},
    "truthfulqa": {"test": 99},
}
"""Questions of each split, as BioMistral's Table 2 has them; TruthfulQA's four categories in the revision of 2025."""

KNOWN_REASONS = {
    ("mmlu_professional_medicine", "test", 282): "some copies carry ten more rows than the release of 272",
    ("truthfulqa", "test", 102): "the first revision (817 items); that of 2025 has 790",
}


SHOT_SPLITS = ("dev", "train", "validation")


def tasks_in(name: str, language: str) -> tuple[str, ...]:
    """The tasks of a source that there can be in a language."""
    return xmedbench.tasks_of(language) if name == "xmedbench" else SOURCES[name].tasks


@dataclass(frozen=True)
class Gathered:
    """The files of a suite by source, and those that belong to none."""

    files: dict[str, list[DataFile]]
    others: list[Path]


def gather(suite: str, places: list[Path], language: str = "en") -> Gathered:
    """Tell every file's layout by its fields; of translated tests only the one in the language.

    Raises:
        UserError: a file cannot be read, or a benchmark of the suite has none.
    """
    wanted = {name: SOURCES[name] for name in SUITES[suite]}
    found: dict[str, list[DataFile]] = {name: [] for name in wanted}
    others = []
    for file in data_files(places):
        name = next((name for name, source in wanted.items() if file.first and source.recognises(file)), None)
        if name is None:
            others.append(file.path)
        else:
            found[name].append(file)
    if missing := [name for name, files in found.items() if not files]:
        raise UserError(f"{', '.join(map(str, places))}: no file of {', '.join(missing)} (told by its fields, see "
                        f"docs/formats.md); give it too, or build another suite than '{suite}'")
    if suite in _OF_LANGUAGE:
        found[suite] = _OF_LANGUAGE[suite](found[suite], language)
    return Gathered(found, others)


def read(gathered: Gathered, root: int) -> Iterator[Question | Refusal]:
    """Every row of the suite's files, as a question or as a refusal; of two questions with one id the second is refused.

    Raises:
        UserError: what a reader needs is missing.
    """
    seen: set[str] = set()
    for name, files in gathered.files.items():
        for item in SOURCES[name].read(files, root):
            if isinstance(item, Question) and item.id in seen:
                yield Refusal(item.id, "another file of this suite has a question of this task, split and number")
                continue
            if isinstance(item, Question):
                seen.add(item.id)
            yield item


def lacking(suite: str, counts: Counter[tuple[str, str]]) -> list[str]:
    """What cannot be asked of the tasks for want of files: shots, or anything at all."""
    tasks = [task for name in SUITES[suite] for task in SOURCES[name].tasks if task in SIZES]
    untested = [task for task in tasks if not counts[task, "test"]]
    shotless = [task for task in tasks if SIZES[task].keys() != {"test"} and not any(counts[task, one] for one in SHOT_SPLITS)]
    lines = [f"{', '.join(untested)}: no test questions in these files"] if untested else []
    if shotless:
        lines.append(f"{', '.join(shotless)}: no dev, train or validation questions in these files: protocols with shots "
                     "will not ask them; add their train files if you have them")
    return lines


def odd_sizes(suite: str, counts: Counter[tuple[str, str]]) -> list[str]:
    """One line for every split that is there and does not have the known number of questions."""
    lines = []
    for task in (task for name in SUITES[suite] for task in SOURCES[name].tasks):
        for split, known in SIZES.get(task, {}).items():
            found = counts[task, split]
            if found and found != known:
                reason = KNOWN_REASONS.get((task, split, found), "")
                lines.append(f"{task}: {found} {split} questions, {known} were expected" + (f": {reason}" if reason else ""))
    return lines
