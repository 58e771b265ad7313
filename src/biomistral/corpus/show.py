"""``corpus show``: the account of a corpus as lines for a terminal."""

from pathlib import Path
from typing import Any

from biomistral.artifact import open_artifact


def account(folder: Path) -> dict[str, Any]:
    """What a corpus holds, as plain data: counts, licences, packing.

    Raises:
        UserError: the folder is not a finished corpus.
    """
    manifest = open_artifact(folder, "corpus").manifest
    return {"folder": str(folder), "key": manifest["key"], "counts": manifest["counts"], "licences": manifest["licences"],
            "packing": manifest["facts"]["packing"]}


def _table(title: str, rows: dict[str, int]) -> list[str]:
    return ["", title, *(f"  {name:24} {count:12,}" for name, count in rows.items())] if rows else []


def render(data: dict[str, Any]) -> str:
    """The account as text."""
    counts, packing = data["counts"], data["packing"]
    lines = [f"{data['folder']}: {counts['documents']:,} of {counts['read']:,} documents, {counts['words']:,} words, "
             f"{counts['tokens']:,} tokens"]
    lines += _table("licences", data["licences"]) + _table("languages", counts["languages"])
    lines += _table("refused", counts["refused"])
    lines += ["", "sources"]
    lines += [f"  {name:24} {source['documents']:12,} documents {source['tokens']:14,} tokens"
              for name, source in counts["sources"].items()]
    lines += ["", f"packed in blocks of {packing['sequence_length']:,} tokens ({packing['dtype']})"]
    lines += [f"  {split:24} {packing[split]['blocks']:12,} blocks, {100 * packing[split]['reduction']:.1f} % fewer sequences "
              f"than one a piece, {packing[split]['waste']:,} tokens wasted" for split in ("train", "heldout")]
    return "\n".join(lines)
