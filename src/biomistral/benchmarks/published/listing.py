"""What benchmarks there are: suites, tasks, questions of each split, licences, papers."""

from typing import Any

from biomistral.benchmarks.published import mmlu
from biomistral.benchmarks.published.suite import SIZES, SOURCES, SUITES

_HUB = {**dict.fromkeys(mmlu.TASKS, "cais/mmlu"), "medqa_4": "GBaker/MedQA-USMLE-4-options", "pubmedqa": "qiaojin/PubMedQA",
        "medmcqa": "openlifescienceai/medmcqa", "truthfulqa": "truthfulqa/truthful_qa"}
"""Where the hub has a task in a layout that is read here. PubMedQA's official test ids are in its authors' repository alone."""

_SOURCES = {"bioinstructqa": "BioMistral/BioInstructQA", "mmmlu": "openai/MMMLU", "global_mmlu": "CohereLabs/Global-MMLU",
            "xmedbench": "FreedomIntelligence/XMedbench"}

_MEDCONCEPTSQA = {"suites": ["medconceptsqa"], "task": "VOCABULARY_LEVEL", "sizes": {},
                  "licence": "as the code lists", "paper": "arXiv 2405.07348", "hub": ""}


def known() -> list[dict[str, Any]]:
    """One row a task of a source: the suites it belongs to, its known sizes, licence, paper, and the source's name on the hub."""
    rows = [{"suites": [suite for suite, names in SUITES.items() if name in names], "task": task, "sizes": SIZES.get(task, {}),
             "licence": source.licence, "paper": source.paper, "hub": _on_hub(name, task)}
            for name, source in SOURCES.items() for task in source.tasks]
    return [*rows, _MEDCONCEPTSQA]


def _on_hub(source: str, task: str) -> str:
    """What ``--files`` takes to download it; empty where the hub has it in no layout that is read here."""
    name = _SOURCES.get(source) or _HUB.get(task, "")
    return name and f"hub:datasets/{name}"


def render(rows: list[dict[str, Any]]) -> str:
    """A line a task, under each suite that holds it."""
    lines = []
    for suite in dict.fromkeys(suite for row in rows for suite in row["suites"]):
        lines.append(f"{suite}: biomistral benchmark build {suite} " + ("--out DIR" if suite == "medconceptsqa"
                                                                        else "--files FILES --out DIR"))
        for row in rows:
            if suite in row["suites"]:
                sizes = ", ".join(f"{count:,} {split}" for split, count in row["sizes"].items())
                sizes = sizes or ("a question a code" if suite == "medconceptsqa" else "")
                about = f"{sizes:44}  {row['licence']:18}  {row['paper']}  {row['hub']}"
                lines.append(f"  {row['task']:28}  {about}".rstrip())
    return "\n".join(lines)
