"""A benchmark's questions as examples: put as evaluation puts them, and never one that is asked in the test."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from biomistral.errors import UserError
from biomistral.recipe import nearest
from biomistral.records import Question, iter_questions
from biomistral.scoring.names import Formulation, ProtocolName, is_test
from biomistral.scoring.prompts import PROTOCOLS, build_prompt, cloze_continuations
from biomistral.training.data.jsonl import Example

_PROTOCOLS: dict[Formulation, ProtocolName] = {
    "letters": "letters-0shot", "medconceptsqa": "medconceptsqa-0shot", "cloze": "cloze-sum"}
_SKIPPED = re.compile(r"[^\w+<>=±%°]+|_+")


@dataclass(frozen=True)
class Choice:
    """Which questions of benchmarks are learnt from (no tasks: all), and how they are put."""

    split: str = "train"
    tasks: tuple[str, ...] = ()
    form: Formulation = "letters"

    def takes(self, question: Question) -> bool:
        """Whether a question is one of them."""
        return question.split == self.split and (not self.tasks or question.task in self.tasks)


TRAIN = Choice()

def as_example(question: Question, place: str, form: Formulation) -> Example:
    """The question as evaluation asks it with no shots, to the letter, and its answer: the option's letter, or its text."""
    prompt = build_prompt(question, [], PROTOCOLS[_PROTOCOLS[form]])
    answer = cloze_continuations(question)[question.answer_index] if form == "cloze" else question.answer
    return Example(question.id, place, prompt, answer)


def fingerprint(question: Question) -> bytes:
    """What two copies of a question share: its stem and the set of its options, whatever their order, case, spaces and
    punctuation (signs that change a number's meaning stay). The context is left out: the question is the same without."""
    return _digest(_plain(question.stem), *sorted(map(_plain, question.options)))


def _prompts(question: Question) -> Iterator[bytes]:
    """Fingerprints of the prompts that evaluation would put a question with."""
    for protocol in _PROTOCOLS.values():
        yield _digest(_plain(build_prompt(question, [], PROTOCOLS[protocol])))


def _digest(*parts: str) -> bytes:
    return blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _plain(text: str) -> str:
    return _SKIPPED.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


class Benchmarks:
    """What questions files hold, read through once: how many questions of each task and split, and the fingerprints of those
    that must not be learnt from: every test split, and the ``asked`` (file, split) pairs; with ``prompts`` also of those as
    prompts, which takes five times as long.

    Raises:
        UserError: a file is not a questions file, or a question in it is not sound.
    """

    def __init__(self, files: Iterable[Path], asked: Collection[tuple[Path, str]], prompts: bool) -> None:
        self.sizes: dict[Path, Counter[tuple[str, str]]] = {}
        self.guarded: set[bytes] = set()
        for path in dict.fromkeys(files):
            sizes = self.sizes[path] = Counter[tuple[str, str]]()
            for _, question in iter_questions(path):
                sizes[question.split, question.task] += 1
                if is_test(question.split) or (path, question.split) in asked:
                    self.guarded.add(fingerprint(question))
                    self.guarded.update(_prompts(question) if prompts else ())

    def check(self, files: Collection[Path], choice: Choice) -> None:
        """Refuse a choice that the files do not have, or that is their test.

        Raises:
            UserError: the split or a task is in none of them (the message names the nearest), or a file has nothing of it.
        """
        if is_test(choice.split):
            raise UserError(f"split '{choice.split}' is what a benchmark asks in the end, it cannot be trained on; take train "
                            "or another split")
        where = " and ".join(map(str, files))
        known = [pair for file in files for pair in self.sizes[file]]
        if choice.split not in {split for split, _ in known}:
            raise UserError(f"{where}: has no questions of split '{choice.split}'"
                            f"{nearest(choice.split, dict.fromkeys(split for split, _ in known if not is_test(split)))}")
        tasks = dict.fromkeys(task for split, task in known if split == choice.split)
        for task in choice.tasks:
            if task not in tasks:
                raise UserError(f"{where}: has no questions of task '{task}' in split '{choice.split}'{nearest(task, tasks)}")
        for file in files:
            if not self.num_chosen(file, choice):
                raise UserError(f"{file}: none of its questions is of split '{choice.split}'"
                                f"{' and tasks ' + ', '.join(choice.tasks) if choice.tasks else ''}; leave the file out")

    def num_chosen(self, file: Path, choice: Choice) -> int:
        """How many questions of a file a choice takes, copies of guarded ones included."""
        return sum(count for (split, task), count in self.sizes[file].items()
                   if split == choice.split and (not choice.tasks or task in choice.tasks))

    def guards(self, example: Example) -> bool:
        """Whether an example of another file, or a turn of it, is a guarded question as evaluation would put it."""
        texts = [example.prompt, *(message["content"] for message in example.messages if message["role"] != "assistant")]
        return bool(self.guarded) and any(_digest(_plain(text)) in self.guarded for text in texts)

    def examples(self, file: Path, choice: Choice) -> Iterator[Example | None]:
        """A file's chosen questions as examples, in its order; None stands for one that is guarded, and left out."""
        for place, question in iter_questions(file):
            if choice.takes(question):
                left_out = fingerprint(question) in self.guarded
                yield None if left_out else as_example(question, place, choice.form)
