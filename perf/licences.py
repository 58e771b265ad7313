"""How far the licence gate agrees with an index of licences that someone else read from the same articles.

``python perf/licences.py FOLDER INDEX.tsv``: a folder of JATS files, and a table with the columns ``file`` and ``license``.
Every disagreement is listed with what each statement of the file says by itself, in a few of its words.
"""

import csv
import json
import platform
import re
import sys
import time
from pathlib import Path

from biomistral.corpus.articles import jats
from biomistral.corpus.articles.licences import UNKNOWN, family, identify

RESULTS = Path(__file__).parent / "results" / "licences.json"
WORDS = 14


def family_in_index(said: str) -> str | None:
    """The index's words as a family: "CC BY-NC" -> cc-by-nc, "CC0/PD(text)" -> cc0; None: none that it could name."""
    plain = said.replace("(text)", "").split("/")[0].strip()
    return family(identify([{"PD": "PD", "CC0": "CC0-1.0"}.get(plain, plain)])[0])


def decisive(statement: str) -> str:
    """The words around what was recognised, never the whole statement."""
    words = " ".join(statement.split())
    found = re.search(r"creative\s?commons|public domain|government|licen[sc]e", words, re.IGNORECASE)
    start = words.rfind(" ", 0, max(0, found.start() - 30)) + 1 if found else 0
    return " ".join(words[start:].split()[:WORDS])


def reason(statements: tuple[str, ...], found: str, indexed: str | None) -> str:
    """Why the statements give this licence and not the index's."""
    alone = {identify([statement])[0] for statement in statements} - {UNKNOWN}
    if found == UNKNOWN:
        return "its statements contradict each other: refused" if alone else "no statement names a licence of Creative Commons"
    families = {family(name) for name in alone}
    if len(families) > 1:
        return f"its statements differ ({', '.join(sorted(alone))}): all their restrictions count"
    agreed = "every statement that names a licence names this one"
    return agreed if indexed else f"{agreed}; the index names none"


def compare(folder: Path, index: Path) -> dict[str, object]:
    with index.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    statements = {}
    for row in rows:
        try:
            statements[row["file"]] = jats.parse((folder / row["file"]).read_bytes())[0].licence_statements
        except jats.MalformedError as error:
            statements[row["file"]] = ()
            print(f"{row['file']}: {error}", file=sys.stderr)
    started = time.process_time()
    found = {name: identify(said)[0] for name, said in statements.items()}
    seconds = time.process_time() - started
    disagreements = [
        {"file": row["file"], "index": row["license"], "found": found[row["file"]],
         "words": [decisive(said) for said in dict.fromkeys(statements[row["file"]])],
         "reason": reason(statements[row["file"]], found[row["file"]], family_in_index(row["license"]))}
        for row in rows if family(found[row["file"]]) != family_in_index(row["license"])]
    counts: dict[str, int] = {}
    for name in found.values():
        counts[name] = counts.get(name, 0) + 1
    return {"files": len(rows), "agree": len(rows) - len(disagreements), "seconds": round(seconds, 4),
            "licences": dict(sorted(counts.items(), key=lambda item: -item[1])), "disagreements": disagreements,
            "machine": f"{platform.machine()}, Python {platform.python_version()}"}


def page(result: dict[str, object]) -> str:
    lines = [f"{result['agree']} of {result['files']} files agree with the index on the family of the licence.", "",
             "| file | index | found | its words | why |", "|---|---|---|---|---|"]
    for row in result["disagreements"]:  # type: ignore[attr-defined]
        words = "; ".join(f'"{each}"' for each in row["words"]).replace("|", "\\|")
        lines.append(f"| {row['file']} | {row['index']} | {row['found']} | {words} | {row['reason']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    result = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
