"""What benchmarks there are: suites, tasks, questions of each split, licences, papers."""

from typing import Any

from biomistral.benchmarks.published.suite import SIZES, SOURCES, SUITES

_MEDCONCEPTSQA = {"suites": ["medconceptsqa"], "task": "VOCABULARY_LEVEL", "sizes": {},
                  "licence": "as the code lists", "paper": "arXiv 2405.07348"}


def known() -> list[dict[str, Any]]:
    """One row a task: the suites it belongs to, its known sizes, licence and paper."""
    rows = [{"suites": [suite for suite, names in SUITES.items() if name in names], "task": task, "sizes": SIZES[task],
             "licence": source.licence, "paper": source.paper} for name, source in SOURCES.items() for task in source.tasks]
    return [*rows, _MEDCONCEPTSQA]


def render(rows: list[dict[str, Any]]) -> str:
    """A line a task, under each suite that holds it."""
    lines = []
    for suite in dict.fromkeys(suite for row in rows for suite in row["suites"]):
        lines.append(f"{suite}: biomistral benchmark build {suite} " + ("--out DIR" if suite == "medconceptsqa"
                                                                        else "--files FOLDER --out DIR"))
        for row in rows:
            if suite in row["suites"]:
                sizes = ", ".join(f"{count:,} {split}" for split, count in row["sizes"].items())
                lines.append(f"  {row['task']:28}  {sizes or 'a question a code':44}  {row['licence']:18}  {row['paper']}")
    return "\n".join(lines)
