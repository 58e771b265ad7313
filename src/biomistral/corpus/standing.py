"""Which questions stand in a finished corpus: by the rules it was, or would have been, decontaminated with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from biomistral.artifact import open_artifact
from biomistral.corpus.cleaning.question_index import QuestionIndex, build_index
from biomistral.corpus.cleaning.shingles import words_of
from biomistral.corpus.settings import CorpusSettings
from biomistral.progress import track
from biomistral.recipe import parse
from biomistral.records import Question

Where = dict[str, list[str]]
"""Question id -> the documents that hold it, in the corpus's order."""


@dataclass(frozen=True)
class Standing:
    """``kept``: in documents of the corpus; ``removed``: in what decontamination took out when it was built.

    ``searched``: questions long enough to be looked for; of the others nothing is known.
    """

    kept: Where
    removed: Where
    searched: set[str]


def standing(corpus: Path, questions: Sequence[Question]) -> Standing:
    """Look for the questions in every document that the corpus kept, held-out ones included.

    Raises:
        UserError: ``corpus`` is no finished corpus folder.
    """
    settings = parse(CorpusSettings, open_artifact(corpus, "corpus").manifest["settings"], f"{corpus}/manifest.json")
    index = build_index(questions, settings.decontaminate_fields, settings.decontaminate_ngram, settings.decontaminate_shortest,
                        settings.decontaminate_except, settings.decontaminate_with_answer)
    asked = {(question.task, question.id) for question in questions}
    with pq.ParquetFile(corpus / "decontamination.parquet") as file:
        rows = file.read(["document", "question", "task"]).to_pylist()
    removed = [(row["document"], row["question"]) for row in rows if (row["task"], row["question"]) in asked]
    return Standing(_by_question(_found(corpus, index)), _by_question(removed),
                    {questions[number].id for number in set(index.parts[:, 0].tolist())})


def _found(corpus: Path, index: QuestionIndex) -> list[tuple[str, str]]:
    """(document, question) of every match in the documents kept."""
    found = []
    with pq.ParquetFile(corpus / "documents.parquet") as file:
        batches = file.iter_batches(batch_size=256, columns=["id", "text"])
        for batch in track(batches, f"searching {corpus.name}", total=-(-file.metadata.num_rows // 256)):
            for document, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                found += [(document, match.question) for match in index.matches(text, words_of(text))]
    return found


def _by_question(pairs: Sequence[tuple[str, str]]) -> Where:
    where: dict[str, dict[str, None]] = {}
    for document, question in pairs:
        where.setdefault(question, {})[document] = None
    return {question: list(documents) for question, documents in where.items()}
