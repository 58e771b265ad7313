"""The record of an answer: what was asked, what the model gave, everything a metric needs without running it again."""

from collections.abc import Iterator, Sequence

from biomistral.models.tokens import Tokenizer
from biomistral.recipe import canonical_hash
from biomistral.records import LETTERS, Question
from biomistral.scoring.engine import Engine, Prefix
from biomistral.scoring.extract import extract
from biomistral.scoring.groups import Group
from biomistral.scoring.prompts import graded_answers
from biomistral.scoring.score import (
    ClozeAnswer,
    Item,
    LetterAnswer,
    TextAnswer,
    decoded,
    score_cloze,
    score_letters,
    score_texts,
    softmax,
)
from biomistral.scoring.tally import Row


def answer_rows(engine: Engine, prefix: Prefix, group: Group, batch: Sequence[int], tokenizer: Tokenizer,
                name: str) -> Iterator[Row]:
    """The rows of one batch, one a question and protocol (``records.ANSWER_SCHEMA``).

    Raises:
        UserError: the logits of a question are not finite.
    """
    items, questions = [group.items[index] for index in batch], [group.questions[index] for index in batch]
    answers = _score(engine, prefix, group, items, questions, tokenizer)
    for index, question, answer in zip(batch, questions, answers, strict=True):
        common = {**common_fields(name, question, group.prompts[index]), "shot_set": group.shot_set, "shots": group.num_shots,
                  "prompt_tokens": len(group.items[index].prompt), "seconds": answer.seconds}
        for protocol in group.protocols:
            scored = _fields(answer, question, tokenizer, protocol.score)
            right = scored["chosen"] == question.answer
            yield {**common, **scored, "protocol": protocol.name, "right": right}


def common_fields(name: str, question: Question, prompt: str) -> Row:
    """What a row holds whatever is answered."""
    return {"model": name, "task": question.task, "question": question.id, "language": question.language,
            "group": str(question.meta.get("group", "")), "options": len(question.options), "answer": question.answer,
            "prompt_hash": canonical_hash([prompt, *question.options])[:16],
            "permutation": question.meta.get("permutation", 0), "order": question.meta.get("order"),
            "cluster": question.meta.get("cluster") or cluster_of(question)}


def cluster_of(question: Question) -> str:
    """The same for questions that ask the same. A translation is told its English question's (``meta.cluster``)."""
    return canonical_hash([question.stem, question.context])[:16]


def _score(engine: Engine, prefix: Prefix, group: Group, items: Sequence[Item], questions: Sequence[Question],
           tokenizer: Tokenizer) -> Sequence[LetterAnswer | ClozeAnswer | TextAnswer]:
    if group.protocols[0].by_text:
        return score_texts(engine, prefix, items, group.protocols[0].longest, end_tokens(engine, tokenizer))
    if group.protocols[0].by_letter:
        return score_letters(engine, prefix, items, [group.letters[: len(question.options)] for question in questions])
    return score_cloze(engine, prefix, items)


def end_tokens(engine: Engine, tokenizer: Tokenizer) -> set[int]:
    """The tokens that end an answer, as tokenizer and generation settings of the model say."""
    return engine.ends | ({tokenizer.eos_token_id} - {None})


def _fields(answer: LetterAnswer | ClozeAnswer | TextAnswer, question: Question, tokenizer: Tokenizer,
            score: str) -> Row:
    if isinstance(answer, LetterAnswer):
        return _letter_fields(answer, question, tokenizer)
    if isinstance(answer, TextAnswer):
        return text_fields(str(tokenizer.decode(answer.tokens, skip_special_tokens=True)), question)
    return cloze_fields(answer, question, score)


def cloze_fields(answer: ClozeAnswer, question: Question, score: str) -> Row:
    """The fields of an answer by likelihood, scored by ``sum``, ``mean`` or as TruthfulQA's (``mc``)."""
    if score != "mc":
        return _cloze_fields(answer.sums if score == "sum" else answer.means)
    num = len(question.options)
    masses = softmax(answer.sums[num:])
    true = sum(mass for mass, right in zip(masses, graded_answers(question).values(), strict=True) if right)
    return {**_cloze_fields(answer.sums[:num]), "truth_mass": true}


def text_fields(said: str, question: Question) -> Row:
    """The fields of an answer in words: ``chosen`` is empty where it cannot be read, and ``unparsed`` says why."""
    chosen, reason = extract(said, question.options, question.letters)
    return {"chosen": chosen, "probabilities": None, "letter_mass": None, "open_chosen": None, "open_right": None,
            "said": said, "unparsed": reason or None}


def _letter_fields(answer: LetterAnswer, question: Question, tokenizer: Tokenizer) -> Row:
    return letter_fields(answer.probabilities, answer.mass, decoded(tokenizer, answer.open_token), question)


def letter_fields(probabilities: list[float], mass: float, said: str, question: Question) -> Row:
    """The fields of an answer by letter; ``said`` is the likeliest token of all."""
    return {"chosen": _first_best(probabilities), "probabilities": probabilities, "letter_mass": mass, "open_chosen": said,
            "open_right": said == question.answer}


def _cloze_fields(scores: Sequence[float]) -> Row:
    return {"chosen": _first_best(scores), "probabilities": softmax(scores), "letter_mass": None, "open_chosen": None,
            "open_right": None}


def _first_best(scores: Sequence[float]) -> str:
    """The letter of the highest score; of equals, the first."""
    return LETTERS[max(range(len(scores)), key=lambda index: (scores[index], -index))]
