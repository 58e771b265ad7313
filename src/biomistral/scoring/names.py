"""The names of the ways a question can be put; light, since the settings of several stages use them."""

from typing import Literal

Formulation = Literal["letters", "medconceptsqa", "cloze"]
"""How a question is put: options with letters as BioMistral has it, as MedConceptsQA has it, or no options shown."""

ProtocolName = Literal["letters-0shot", "letters-3shot", "medconceptsqa-0shot", "medconceptsqa-4shot",
                       "cloze-sum", "cloze-mean"]
"""Protocols that read probabilities of a plain prompt: what training and quantisation ask by."""

AskedProtocolName = Literal["letters-0shot", "letters-3shot", "medconceptsqa-0shot", "medconceptsqa-4shot",
                            "cloze-sum", "cloze-mean", "chat-0shot", "chat-3shot", "generate-0shot", "generate-3shot",
                            "chat-generate-0shot", "chat-generate-3shot", "medconceptsqa-generate-0shot",
                            "medconceptsqa-generate-4shot", "truthful-0shot", "truthful-generate-0shot",
                            "translated-0shot", "translated-3shot", "translated-generate-0shot", "translated-generate-3shot",
                            "truthfulqa-mc"]
"""All protocols of the evaluation."""


def is_test(split: str) -> bool:
    """Whether a split's name says that it is a benchmark's test."""
    return split.casefold().startswith("test")
