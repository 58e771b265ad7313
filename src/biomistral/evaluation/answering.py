"""The local engine's answers, written part by part: what was cut off goes on where it was, and a cache finds what it knows.

A part is some batches of one group. Its file is named by a hash of all that its numbers depend on: weights, precision, kind of
device, batches, prompts. So the parts of an interrupted run and those of a cache are the same thing in two places. Each batch is
put on the disk when it is computed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from biomistral.evaluation.kept import Kept
from biomistral.files import file_digest
from biomistral.models.folder import MODEL_PATTERNS, TOKENIZER_PATTERNS
from biomistral.progress import bar
from biomistral.recipe import canonical_hash
from biomistral.scoring.engine import batches, cost, shared_length
from biomistral.scoring.groups import Group
from biomistral.scoring.tally import Row

VERSION = 4
"""Raised whenever the same part would give other rows."""

BATCHES_A_PART = 8


@dataclass(frozen=True)
class Part:
    """Batches of a group, as places of its questions; ``shared`` tokens begin all its prompts. ``key`` names all of it."""

    key: str
    group: Group
    shared: int
    batches: list[list[int]]

    def cost(self, place: int) -> int:
        """What a question counts against the tokens of a batch."""
        return cost(len(self.group.items[place].prompt) - self.shared, self.shared)

    def alone(self) -> "Part":
        """The same with nothing but its own questions, for a process elsewhere."""
        places = [place for batch in self.batches for place in batch]
        number = {place: new for new, place in enumerate(places)}
        group = replace(self.group, questions=[self.group.questions[place] for place in places],
                        prompts=[self.group.prompts[place] for place in places],
                        items=[self.group.items[place] for place in places])
        return replace(self, group=group, batches=[[number[place] for place in batch] for batch in self.batches])

    def singly(self) -> "list[Part]":
        """Each batch as a part of its own: what is computed at once, and lost at most."""
        return [replace(self, key=f"{self.key}-{number}", batches=[batch]) for number, batch in enumerate(self.batches)]

    @property
    def size(self) -> int:
        return sum(map(len, self.batches))


Compute = Callable[[Sequence[Part]], Iterator[list[Row]]]
"""The rows of some parts, in their order."""


def model_digest(*folders: Path | None) -> str:
    """What decides a model's answers: hash of its weights, config and tokenizer (and of an adapter), however the folders are
    called."""
    patterns = (*MODEL_PATTERNS, *TOKENIZER_PATTERNS)
    found = [{file for pattern in patterns for file in folder.glob(pattern) if file.is_file()} for folder in folders if folder]
    return canonical_hash([{file.name: file_digest(file) for file in files} for files in found])


def parts_of(groups: Sequence[Group], budget: int, about: Sequence[str], packed: bool = False) -> list[Part]:
    """Everything to be computed, in parts; ``about``: model, precision and kind of device, which enter the keys. ``packed``: rows
    will not be padded, and what they share costs no memory."""
    found = []
    for group in groups:
        shared = shared_length([item.prompt for item in group.items])
        own = [len(item.prompt) - shared for item in group.items]
        grouped = batches(own, budget, padded=False) if packed else batches([cost(one, shared) for one in own], budget)
        common = [VERSION, torch.__version__, budget, *about, [protocol.definition() for protocol in group.protocols],
                  group.items[0].prompt[:shared], group.letters, group.shot_set]
        for start in range(0, len(grouped), BATCHES_A_PART):
            some = grouped[start: start + BATCHES_A_PART]
            asked = [[[group.questions[at].model_dump(), group.prompts[at], group.items[at].prompt, group.items[at].options]
                      for at in batch] for batch in some]
            found.append(Part(canonical_hash([common, asked]), group, shared, some))
    return found


def answer_all(folder: Path, parts: Sequence[Part], compute: Compute, name: str) -> Iterator[Row]:
    """Rows of all parts in order, under this name; a batch that is on the disk is read, not computed again. ``compute`` is given
    the others, each as a part (`Part.singly`)."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [Kept(folder / f"{part.key[:40]}.parquet", len(part.batches)) for part in parts]
    computed = compute([part.singly()[number] for part, own in zip(parts, kept, strict=True) for number in own.missing])
    with bar(f"evaluating {name}", sum(part.size for part in parts)) as progress:
        for part, own in zip(parts, kept, strict=True):
            progress.advance(part.size - sum(len(part.batches[number]) for number in own.missing))
            for number in own.fill(computed):
                progress.advance(len(part.batches[number]))
            yield from ({**row, "model": name} for row in own.rows())
