"""MedConceptsQA (arXiv 2405.07348): four descriptions, one of which is the code's; distractors by graph distance."""

import random
from collections.abc import Iterable, Iterator, Sequence

from biomistral.benchmarks.distances import Candidates, Distances
from biomistral.codes import Hierarchy
from biomistral.records import LETTERS, Question
from biomistral.seeds import seed

STEM = "What is the description of the medical code {code} in {vocabulary}?"
DISTANCES: dict[str, tuple[int, ...] | None] = {"easy": None, "medium": (3, 4, 5), "hard": (2,)}
NUM_DISTRACTORS = 3


class QuestionSet:
    """The questions of one vocabulary at one level. Each is a function of (root seed, vocabulary, level, code) alone."""

    def __init__(self, hierarchy: Hierarchy, distances: Distances, level: str, root: int) -> None:
        self.hierarchy, self.level = hierarchy, level
        self._distances, self._root = distances, root

    @property
    def task(self) -> str:
        return f"{self.hierarchy.vocabulary.lower()}_{self.level}"

    def candidates(self, code: str) -> Candidates:
        """The codes whose descriptions may stand beside the code's own."""
        distances = DISTANCES[self.level]
        return self._distances.others(code) if distances is None else self._distances.at(code, distances)

    def askable(self) -> list[str]:
        """The codes with enough candidates for a question, in file order."""
        return [code for code in self._distances.named if len(self.candidates(code)) >= NUM_DISTRACTORS]

    def ordered(self, codes: Iterable[str]) -> list[str]:
        """Codes in a random order that does not depend on which others there are, so that a sample can only grow."""
        return sorted(codes, key=lambda code: (self._seed("order", code), code))

    def question(self, code: str, split: str = "test", group: str | None = None) -> Question:
        """The question about a code of `askable`."""
        vocabulary = self.hierarchy.vocabulary
        generator = random.Random(self._seed("question", code))
        answer = self.hierarchy.nodes[code].name
        options = self._distractors(answer, self.candidates(code), generator)
        place = generator.randrange(len(options) + 1)
        options.insert(place, answer)
        meta = {"vocabulary": vocabulary, "level": self.level, "code": code}
        return Question(id=f"medconceptsqa/{vocabulary}/{self.level}/{code}", task=self.task, split=split,
                        stem=STEM.format(code=code, vocabulary=vocabulary), options=tuple(options), answer=LETTERS[place],
                        meta=meta if group is None else {**meta, "group": group})

    def _seed(self, what: str, code: str) -> int:
        return seed(self._root, "medconceptsqa", what, self.hierarchy.vocabulary, self.level, code)

    def _distractors(self, answer: str, candidates: Sequence[str], generator: random.Random) -> list[str]:
        """Three descriptions drawn uniformly; a text seen before is taken only when nothing else is left."""
        seen = {answer.casefold()}
        fresh: list[str] = []
        repeated: list[str] = []
        for index in _shuffled(len(candidates), generator):
            name = self.hierarchy.nodes[candidates[index]].name
            (repeated if name.casefold() in seen else fresh).append(name)
            seen.add(name.casefold())
            if len(fresh) == NUM_DISTRACTORS:
                break
        return (fresh + repeated)[:NUM_DISTRACTORS]


def _shuffled(count: int, generator: random.Random) -> Iterator[int]:
    """The numbers below ``count`` in random order, drawn one at a time (Fisher-Yates that remembers only its swaps)."""
    moved: dict[int, int] = {}
    for place in range(count):
        drawn = generator.randrange(place, count)
        yield moved.get(drawn, drawn)
        moved[drawn] = moved.get(place, place)


def split(codes: Sequence[str], shots: int, validation: int, limit: int) -> Iterator[tuple[str, str]]:
    """Pairs (code, split) of ordered codes: the first are the shots, the last validation, and the test is between them.

    Taken from both ends, so that more validation questions do not move the test ones, nor the other way round, as long
    as there are enough of both. A ``limit`` of 0 keeps all test questions.
    """
    end = max(shots, len(codes) - validation)
    stop = min(end, shots + limit) if limit else end
    yield from ((code, "dev") for code in codes[:shots])
    yield from ((code, "validation") for code in reversed(codes[end:]))
    yield from ((code, "test") for code in codes[shots:stop])
