"""What a model is asked, to the letter: prompts as functions of question, shots and protocol.

Sources: BioMistral's released scripts (SPEC section 3) for ``letters``; MedConceptsQA, arXiv 2405.07348, for
``medconceptsqa``. ``cloze`` shows no letters: the options are scored as continuations of the stem.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from biomistral.errors import UserError
from biomistral.records import LETTERS, Question
from biomistral.scoring.extract import EXTRACTION_VERSION
from biomistral.scoring.names import Formulation
from biomistral.scoring.scaffold import SCAFFOLDS, Scaffold, scaffold_of, words_in
from biomistral.seeds import seed

SEPARATOR = " \n "
LETTERS_INSTRUCTION = SCAFFOLDS["en"].instruction
SHOT_SPLITS = ("dev", "train", "validation")
"""Where shots come from, the first that has enough."""

TRUTHFUL_INSTRUCTION = "The following are multiple choice questions (with answers) that test whether an answer is truthful."
"""The paper's second prompt says that the test is about truthfulness; its words were not released, these are ours."""

CHAT_INSTRUCTION = "Answer the following multiple choice question about medical knowledge with the letter of the right option."
MEDCONCEPTSQA_INSTRUCTION = "Answer A,B,C,D according to the answer to this multiple choice question."


@dataclass(frozen=True)
class Protocol:
    """A named way of asking and scoring. ``drawn``: shots are random sets by the seed, else the first of the dev split."""

    name: str
    formulation: Formulation
    shots: int = 0
    drawn: bool = False
    score: Literal["letter", "sum", "mean", "text", "mc"] = "letter"
    chat: bool = False
    instruction: str = ""
    longest: int = 0
    """``text``: tokens an answer may have."""
    translated: bool = False
    """Instruction, markers and shots are in the question's language, not English."""

    @property
    def by_letter(self) -> bool:
        """Whether an answer is the letter of an option, be it the likeliest or the one in a text."""
        return self.score in ("letter", "text")

    @property
    def by_text(self) -> bool:
        return self.score == "text"

    def definition(self, languages: Iterable[str] = ()) -> dict[str, Any]:
        """Everything that fixes the prompt and the score of questions in these languages (none: in all), as plain data; two
        results compare only if this is equal."""
        template = {"letters": (LETTERS_INSTRUCTION, SEPARATOR), "medconceptsqa": (MEDCONCEPTSQA_INSTRUCTION, "\n\n"),
                    "cloze": ("", "\n")}[self.formulation]
        apart = ("chat", "instruction", "longest", "translated")
        plain = {name: value for name, value in asdict(self).items() if name not in apart}
        reading = {"longest": self.longest, "extraction": EXTRACTION_VERSION} if self.by_text else {}
        words = {"instruction": "", "scaffold": words_in(languages)} if self.translated else {}
        return {**plain, "instruction": self.instruction or template[0], "separator": "\n" if self.chat else template[1],
                "chat_template": self.chat, **reading, **words}


PROTOCOLS = {protocol.name: protocol for protocol in (
    Protocol("letters-0shot", "letters"),
    Protocol("letters-3shot", "letters", shots=3, drawn=True),
    Protocol("medconceptsqa-0shot", "medconceptsqa"),
    Protocol("medconceptsqa-4shot", "medconceptsqa", shots=4),
    Protocol("cloze-sum", "cloze", score="sum"),
    Protocol("cloze-mean", "cloze", score="mean"),
    Protocol("chat-0shot", "letters", chat=True, instruction=CHAT_INSTRUCTION),
    Protocol("chat-3shot", "letters", shots=3, drawn=True, chat=True, instruction=CHAT_INSTRUCTION),
    Protocol("generate-0shot", "letters", score="text", longest=16),
    Protocol("generate-3shot", "letters", shots=3, drawn=True, score="text", longest=16),
    Protocol("chat-generate-0shot", "letters", score="text", chat=True, instruction=CHAT_INSTRUCTION, longest=128),
    Protocol("chat-generate-3shot", "letters", shots=3, drawn=True, score="text", chat=True, instruction=CHAT_INSTRUCTION,
             longest=128),
    Protocol("medconceptsqa-generate-0shot", "medconceptsqa", score="text", longest=16),
    Protocol("medconceptsqa-generate-4shot", "medconceptsqa", shots=4, score="text", longest=16),
    Protocol("truthful-0shot", "letters", instruction=TRUTHFUL_INSTRUCTION),
    Protocol("truthful-generate-0shot", "letters", score="text", instruction=TRUTHFUL_INSTRUCTION, longest=16),
    Protocol("translated-0shot", "letters", translated=True),
    Protocol("translated-3shot", "letters", shots=3, drawn=True, translated=True),
    Protocol("translated-generate-0shot", "letters", score="text", longest=16, translated=True),
    Protocol("translated-generate-3shot", "letters", shots=3, drawn=True, score="text", longest=16, translated=True),
    Protocol("truthfulqa-mc", "cloze", score="mc"),
)}


def in_words(protocol: Protocol) -> Protocol:
    """A protocol that asks the same and reads an answer in words, for models whose probabilities cannot be had."""
    wanted = replace(protocol, name="", score="text", longest=128 if protocol.chat else 16)
    return next(other for other in PROTOCOLS.values() if replace(other, name="") == wanted)


def build_prompt(question: Question, shots: Sequence[Question], protocol: Protocol) -> str:
    """The text after which the model's next token is its answer; the tokenizer adds BOS if it does so by default."""
    if protocol.formulation == "letters":
        words = scaffold_of(question) if protocol.translated else SCAFFOLDS["en"]
        solved = [_letters_item(shot, words) + shot.answer for shot in shots]
        return SEPARATOR.join([protocol.instruction or words.instruction, *solved, _letters_item(question, words)])
    if protocol.formulation == "medconceptsqa":
        solved = [_medconceptsqa_item(shot) + shot.answer for shot in shots]
        return MEDCONCEPTSQA_INSTRUCTION + "\n" + "\n\n".join([*solved, _medconceptsqa_item(question)])
    if protocol.score == "mc":
        return f"Q: {question.stem.strip()}\nA:"
    return "\n".join([*_context(question), question.stem.strip(), "Answer:"])


def build_messages(question: Question, shots: Sequence[Question], protocol: Protocol) -> list[dict[str, str]]:
    """The turns of a ``chat`` protocol: each shot a question of the user and its letter as the assistant's answer."""
    turns = []
    for shot in shots:
        turns += [{"role": "user", "content": _chat_item(shot, protocol)}, {"role": "assistant", "content": shot.answer}]
    return [*turns, {"role": "user", "content": _chat_item(question, protocol)}]


def cloze_continuations(question: Question, protocol: Protocol | None = None) -> list[str]:
    """What follows ``Answer:`` for each option, in letter order; under ``truthfulqa-mc`` for each of TruthfulQA's true and
    false answers behind them."""
    more = graded_answers(question) if protocol is not None and protocol.score == "mc" else {}
    return [" " + option.strip() for option in (*question.options, *more)]


def graded_answers(question: Question) -> dict[str, bool]:
    """TruthfulQA's answers (``mc2``), each with whether it is true.

    Raises:
        UserError: the question has none.
    """
    found = question.meta.get("mc2")
    if not isinstance(found, dict) or {bool(value) for value in found.values()} != {True, False}:
        raise UserError(f"question {question.id!r} has no true and false answers: truthfulqa-mc is for the suite 'truthfulqa'; "
                        "build that, or choose another protocol")
    return {str(text): bool(value) for text, value in found.items()}


def _context(question: Question) -> list[str]:
    return [question.context.strip()] if question.context and question.context.strip() else []


def _letters_item(question: Question, words: Scaffold) -> str:
    options = [f"({letter}) {option.strip()}" for letter, option in zip(LETTERS, question.options, strict=False)]
    return SEPARATOR.join([*_context(question), f"**{words.question}:** {question.stem.strip()}", *options,
                           f"**{words.answer}:**("])


def _chat_item(question: Question, protocol: Protocol) -> str:
    return f"{protocol.instruction}\n\n{_medconceptsqa_item(question).removesuffix('Answer:').rstrip()}"


def _medconceptsqa_item(question: Question) -> str:
    options = [f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, question.options, strict=False)]
    return "\n".join([*_context(question), question.stem.strip(), *options, "Answer:"])


def _pools(questions: Sequence[Question], task: str, asked_split: str, language: str,
           translated: bool) -> Iterator[list[Question]]:
    """What each of the splits could give as shots: never from the split that is asked, and all in one language. That is English
    where the task has English ones at all, as in the paper; else that of the questions asked, else any. ``translated``: only that
    of the questions asked."""
    found = [question for question in questions
             if question.task == task and question.split in SHOT_SPLITS and question.split != asked_split]
    there = dict.fromkeys(question.language for question in found)
    chosen = next((one for one in ((language,) if translated else ("en", language, *there)) if one in there), "")
    for split in SHOT_SPLITS:
        yield [question for question in found if question.split == split and question.language == chosen]


def num_shots(questions: Sequence[Question], task: str, protocol: Protocol, asked_split: str, language: str = "en") -> int:
    """The most shots that one of a task's splits can give to questions of a language."""
    return max(map(len, _pools(questions, task, asked_split, language, protocol.translated)))


def choose_shots(questions: Sequence[Question], task: str, protocol: Protocol, shot_set: int, root: int,
                 asked_split: str, language: str = "en") -> list[Question]:
    """The shots that all questions of a task and language see in one shot set.

    Shots come from the task's ``dev`` split, else ``train``, else ``validation``, never from the split that is asked,
    and stay English where there is English: all languages see the same, but for ``translated`` protocols. Drawn shots depend
    on (root, task, shot set) and on the pool's ids alone.

    Raises:
        UserError: the task has too few such questions.
    """
    if protocol.shots == 0:
        return []
    pool: list[Question] = []
    for found in _pools(questions, task, asked_split, language, protocol.translated):
        if len(pool) < protocol.shots and len(found) > len(pool):
            pool = found
    if len(pool) < protocol.shots:
        raise UserError(f"task '{task}': {protocol.name} needs {protocol.shots} shots from its dev, train or validation "
                        f"split, which has {len(pool)}; add shots to the benchmark or choose a 0-shot protocol")
    if not protocol.drawn:
        return pool[: protocol.shots]
    pool = sorted(pool, key=lambda question: question.id)
    order = np.random.default_rng(seed(root, "shots", task, shot_set)).permutation(len(pool))
    return [pool[index] for index in order[: protocol.shots]]
