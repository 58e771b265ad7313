"""Articles about medical codes: for each category of a code list, its codes and what they stand for, told in sentences.

A description always stands exactly as in the list, so that it can be learnt word for word, and never in the wording of a
test question. Each retelling of a category takes other wordings and another order of the facts, and tells each fact once, two
times in three from code to description: a second sentence on the same code would be learnt by copying the first.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from biomistral.codes import Hierarchy, load
from biomistral.errors import UserError
from biomistral.seeds import seed

TITLES = {"ICD10CM": "ICD-10-CM", "ICD9CM": "ICD-9-CM", "ICD10PROC": "ICD-10-PCS", "ICD9PROC": "ICD-9-CM procedure"}
PUBLIC_DOMAIN = frozenset(TITLES)
"""Lists published by the US Government; any other needs its licence in the settings."""

FORWARD = (
    "{title} code {code} stands for {name}.",
    "In {title}, {code} is the code for {name}.",
    "{code} ({title}): {name}.",
    "The {title} code {code} means {name}.",
    "{code} is used for {name}.",
    "A record with the {title} code {code} reports {name}.",
)
BACKWARD = (
    "{name} is coded {code} in {title}.",
    "{name}: {title} code {code}.",
    "For {name}, the {title} code is {code}.",
    "{name} has the {title} code {code}.",
)
HEADS = (
    "{title} category {code}: {name}",
    "{code} {name} ({title})",
    "{title} codes {code}: {name}",
    "Codes of the {title} category {code}, {name}",
)
NOTES = {
    "includes": "{code} includes {text}.", "inclusionTerm": "{text} is also reported with {code}.",
    "excludes1": "{code} excludes {text}.", "excludes2": "{code} does not include {text}.",
    "useAdditionalCode": "With {code}: {text}.", "codeFirst": "Before {code}: {text}.", "codeAlso": "Beside {code}: {text}.",
}


@dataclass(frozen=True)
class CodeArticle:
    """One telling of one category."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Taught:
    """What a benchmark's ``taught.json`` says the corpus is to teach."""

    vocabulary: str
    categories: frozenset[str]


def read_taught(folder: Path, vocabulary: str) -> Taught:
    """Read ``taught.json`` of a benchmark folder.

    Raises:
        UserError: it is missing, not of that form, or speaks of another vocabulary.
    """
    path = folder / "taught.json" if folder.is_dir() else folder
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        taught = Taught(data["vocabulary"], frozenset(map(str, data["categories"])))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; 'only' names a benchmark folder that holds a taught.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a JSON object with 'vocabulary' and 'categories' ({error})") from error
    if taught.vocabulary != vocabulary:
        raise UserError(f"{path}: teaches {taught.vocabulary}, the source's vocabulary is {vocabulary}")
    return taught


def code_articles(vocabulary: str, path: Path, only: Path | None, repeat: int, root_seed: int) -> Iterator[CodeArticle]:
    """The articles of a code list, category by category in the list's order, each told ``repeat`` times.

    Raises:
        UserError: the list or ``taught.json`` cannot be read, or a taught category is not in the list.
    """
    hierarchy = load(vocabulary, path)
    members = categories(hierarchy)
    wanted = set(members) if only is None else read_taught(only, vocabulary).categories
    if unknown := sorted(wanted - set(members)):
        raise UserError(f"{only}: category {unknown[0]} is not in {path} ({len(unknown)} such)")
    for category, codes in members.items():
        for telling in range(repeat if category in wanted else 0):
            yield _article(hierarchy, category, codes, telling, root_seed)


def categories(hierarchy: Hierarchy) -> dict[str, list[str]]:
    """Category -> its named codes, itself included, in the list's order."""
    members: dict[str, list[str]] = {}
    for code, node in hierarchy.nodes.items():
        category = hierarchy.category_of(code)
        if category is not None and node.name:
            members.setdefault(category, []).append(code)
    return members


def _article(hierarchy: Hierarchy, category: str, codes: list[str], telling: int, root_seed: int) -> CodeArticle:
    title = TITLES.get(hierarchy.vocabulary, hierarchy.vocabulary)
    draw = random.Random(seed(root_seed, "codes", hierarchy.vocabulary, category, telling))
    shift = seed(root_seed, "wordings", hierarchy.vocabulary, category) % len(FORWARD)
    name = hierarchy.nodes[category].name or hierarchy.nodes[codes[0]].name
    heading = HEADS[(shift + telling) % len(HEADS)].format(title=title, code=category, name=name)
    facts = []
    for number, code in enumerate(codes):
        wordings = BACKWARD if (telling + number) % 3 == 2 else FORWARD
        sentence = wordings[(shift + telling + number) % len(wordings)]
        told = sentence.format(title=title, code=code, name=hierarchy.nodes[code].name)
        facts.append(" ".join([told, *(_notes(hierarchy, code) if telling == 0 else ())]))
    if telling:
        draw.shuffle(facts)  # the first telling keeps the list's order
    suffix = f"/{telling + 1}" if telling else ""
    return CodeArticle(f"{hierarchy.vocabulary}:{category}{suffix}", heading, "\n\n".join((heading, *facts)))


def _notes(hierarchy: Hierarchy, code: str) -> Iterator[str]:
    for kind, lines in hierarchy.nodes[code].notes.items():
        if kind in NOTES:
            yield from (NOTES[kind].format(code=code, text=line.rstrip(" .:")) for line in lines)
