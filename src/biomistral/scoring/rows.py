"""The record of an answer: what was asked, what the model gave, everything a metric needs without running it again."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from biomistral.recipe import canonical_hash
from biomistral.records import LETTERS, Question
from biomistral.scoring.engine import Engine, Prefix
from biomistral.scoring.groups import Group
from biomistral.scoring.score import ClozeAnswer, Item, LetterAnswer, decoded, score_cloze, score_letters, softmax
from biomistral.scoring.tally import Row


def answer_rows(engine: Engine, prefix: Prefix, group: Group, batch: Sequence[int], tokenizer: PreTrainedTokenizerBase,
                name: str) -> Iterator[Row]:
    """The rows of one batch, one a question and protocol (``records.ANSWER_SCHEMA``).

    Raises:
        UserError: the logits of a question are not finite.
    """
    items, questions = [group.items[index] for index in batch], [group.questions[index] for index in batch]
    for index, question, answer in zip(batch, questions, _score(engine, prefix, group, items, questions), strict=True):
        common = {"model": name, "task": question.task, "question": question.id, "language": question.language,
                  "shot_set": group.shot_set, "group": str(question.meta.get("group", "")), "options": len(question.options),
                  "answer": question.answer, "prompt_hash": canonical_hash([group.prompts[index], *question.options])[:16],
                  "prompt_tokens": len(group.items[index].prompt), "seconds": answer.seconds}
        for protocol in group.protocols:
            scored = (_letter_fields(answer, question, tokenizer) if isinstance(answer, LetterAnswer)
                      else _cloze_fields(answer.sums if protocol.score == "sum" else answer.means))
            right = scored["chosen"] == question.answer
            yield {**common, **scored, "protocol": protocol.name, "right": right}


def _score(engine: Engine, prefix: Prefix, group: Group, items: Sequence[Item], questions: Sequence[Question],
           ) -> Sequence[LetterAnswer | ClozeAnswer]:
    if group.protocols[0].by_letter:
        return score_letters(engine, prefix, items, [group.letters[: len(question.options)] for question in questions])
    return score_cloze(engine, prefix, items)


def _letter_fields(answer: LetterAnswer, question: Question, tokenizer: PreTrainedTokenizerBase) -> Row:
    said = decoded(tokenizer, answer.open_token)
    return {"chosen": _first_best(answer.probabilities), "probabilities": answer.probabilities, "letter_mass": answer.mass,
            "open_chosen": said, "open_right": said == question.answer}


def _cloze_fields(scores: Sequence[float]) -> Row:
    return {"chosen": _first_best(scores), "probabilities": softmax(scores), "letter_mass": None, "open_chosen": None,
            "open_right": None}


def _first_best(scores: Sequence[float]) -> str:
    """The letter of the highest score; of equals, the first."""
    return LETTERS[max(range(len(scores)), key=lambda index: (scores[index], -index))]
