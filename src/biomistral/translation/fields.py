"""A question's texts by name: what is translated, and what is not (the letters, the answer, the ids)."""

from typing import Any

from biomistral.records import Question

Fields = dict[str, str]
"""``stem``, an option by its letter (``A``...), ``context`` where there is one; in this order."""


def fields_of(question: Question) -> Fields:
    """The texts of a question that are translated."""
    fields = {"stem": question.stem, **dict(zip(question.letters, question.options, strict=True))}
    return fields | ({"context": question.context} if question.context else {})


def with_fields(question: Question, fields: Fields, language: str, about: dict[str, Any]) -> Question:
    """The question in another language; ``about`` says by whom, and stands in its ``meta`` as ``translation``.

    Raises:
        pydantic.ValidationError: a text is empty.
    """
    return Question.model_validate({**question.model_dump(), "language": language, "stem": fields["stem"],
                                    "options": tuple(fields[letter] for letter in question.letters),
                                    "context": fields.get("context"), "meta": {**question.meta, "translation": about}})
