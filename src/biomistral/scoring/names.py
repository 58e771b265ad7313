"""The names of the ways a question can be put; light, since the settings of several stages use them."""

from typing import Literal

Formulation = Literal["letters", "medconceptsqa", "cloze"]
"""How a question is put: options with letters as BioMistral has it, as MedConceptsQA has it, or no options shown."""

ProtocolName = Literal["letters-0shot", "letters-3shot", "medconceptsqa-0shot", "medconceptsqa-4shot",
                       "cloze-sum", "cloze-mean"]


def is_test(split: str) -> bool:
    """Whether a split's name says that it is a benchmark's test."""
    return split.casefold().startswith("test")
