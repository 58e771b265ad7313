"""Codes that are taught and codes like them that are not, and training text about the first.

Whether codes were learnt shows in the hard questions, whose options are nearly all from one category and so all taught
or all untaught; an easy question about a taught code can be answered by picking the one description that was seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from biomistral.benchmarks.settings import TeachSettings
from biomistral.codes import Hierarchy
from biomistral.errors import UserError
from biomistral.seeds import seed

TITLES = {"ICD10CM": "ICD-10-CM", "ICD9CM": "ICD-9-CM", "ICD9PROC": "ICD-9-CM Volume 3", "ICD10PROC": "ICD-10-PCS"}
KINDS = {"ICD10CM": "condition", "ICD9CM": "condition", "ICD9PROC": "procedure", "ICD10PROC": "procedure", "ATC": "substance"}

# None of these may hold the stem of the test (`medconcepts.STEM`): what is learnt must be the codes, not the sentence.
FORWARD = (
    "Which {kind} does {title} file under {code}?",
    "{title} code {code} stands for:",
    "A chart carries the {title} code {code}. What was recorded?",
    "Look up {code} in {title}.",
    "Q: {title} {code} means what?\nA:",
)
REVERSE = (
    "Which {title} code is assigned to \"{name}\"?",
    "Code this {kind} in {title}: {name}.",
)


@dataclass(frozen=True)
class Chosen:
    """Categories, and all codes right below them."""

    categories: tuple[str, ...]
    codes: tuple[str, ...]


def choose(hierarchy: Hierarchy, settings: TeachSettings, root: int) -> tuple[Chosen, Chosen]:
    """The taught and the untaught categories: the fitting ones in random order, dealt out in turn, so both are alike.

    Raises:
        UserError: the vocabulary has too few categories that fit.
    """
    fitting = [code for code in hierarchy.nodes if _fits(hierarchy, code, settings)]
    if len(fitting) < 2 * settings.categories:
        raise UserError(f"{hierarchy.vocabulary}: {len(fitting)} categories have {settings.smallest} to {settings.largest} "
                        f"codes right below them, each named in at most {settings.longest_name} characters; to teach "
                        f"{settings.categories} and leave as many untaught, lower teach.categories to {len(fitting) // 2} "
                        "or widen teach.smallest, teach.largest or teach.longest_name")
    ordered = sorted(fitting, key=lambda code: seed(root, "medconceptsqa", "teach", hierarchy.vocabulary, code))
    return _take(hierarchy, ordered[0::2], settings), _take(hierarchy, ordered[1::2], settings)


def _fits(hierarchy: Hierarchy, code: str, settings: TeachSettings) -> bool:
    children = hierarchy.children(code)
    if not settings.smallest <= len(children) <= settings.largest or hierarchy.category_of(code) != code:
        return False
    names = {hierarchy.nodes[child].name.casefold() for child in children} | {hierarchy.nodes[code].name.casefold()}
    return (all(names) and len(names) == len(children) + 1 and max(map(len, names)) <= settings.longest_name
            and not any(hierarchy.children(child) for child in children))


def _take(hierarchy: Hierarchy, ordered: list[str], settings: TeachSettings) -> Chosen:
    """Categories in order until there are enough; one that would make too many codes is passed over."""
    categories: list[str] = []
    codes: list[str] = []
    for category in ordered:
        children = hierarchy.children(category)
        if len(categories) < settings.categories and len(codes) + len(children) <= settings.codes:
            categories.append(category)
            codes.extend(children)
    return Chosen(tuple(categories), tuple(codes))


def training_rows(hierarchy: Hierarchy, codes: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Questions and answers about codes, from code to description and back, several wordings each."""
    vocabulary = hierarchy.vocabulary
    words = {"title": TITLES.get(vocabulary, vocabulary), "kind": KINDS.get(vocabulary, "concept")}
    for code in codes:
        name = hierarchy.nodes[code].name
        for number, wording in enumerate(FORWARD + REVERSE):
            completion = name if wording in FORWARD else code
            yield {"prompt": wording.format(code=code, name=name, **words), "completion": f" {completion}.",
                   "id": f"medconceptsqa/{vocabulary}/train/{code}/{number}"}
