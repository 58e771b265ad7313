"""The first card of a merged model (``README.md``): the merge file, the parents, and what became of them, in words.

``biomistral card`` writes the whole one over it, once there are results.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from biomistral.artifact import is_artifact, open_artifact
from biomistral.merging.config import split_reference
from biomistral.merging.plan import Plan
from biomistral.readme import compose


def card(plan: Plan, facts: dict[str, Any], inputs: list[dict[str, Any]], rows: list[dict[str, Any]],
         places: Mapping[str, str], folders: Mapping[str, Path]) -> str:
    """Front matter as the hub reads it, then the report. ``places`` says what stood for each name of the merge file, ``folders``
    where that lies: a name in the file alone proves nothing, so it is no ``base_model``."""
    published = [hub_name(places[name], folder) for name, folder in folders.items()]
    front: dict[str, Any] = {"base_model": bases} if (bases := list(dict.fromkeys(name for name in published if name))) else {}
    front |= {"base_model_relation": "merge"} if bases else {}
    front |= {"tags": ["merge", "biomistral"], "library_name": "transformers"}
    licences = {entry["licence"] for entry in inputs}
    if len(licences) == 1 and None not in licences:
        front["license"] = licences.pop()
    sections = ["# A merged model", _what(plan, facts, places), _parents(facts, inputs, places), *_effects(facts),
                _farthest(rows), _file(plan)]
    return compose(yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
                   "\n\n".join(section for section in sections if section))


def public(name: str) -> str:
    """A model's name without the folders of the machine it was merged on."""
    return "+".join(part.rstrip("/").rpartition("/")[2] if part.startswith((".", "/", "~")) else part for part in name.split("+"))


def stood_for(name: str, place: str) -> str:
    """What was merged under a name of the merge file: a folder's last part, or a published name; the file's own name behind it
    where that is another."""
    is_name = place.startswith(("embedded:", "hub:", "stage:"))
    shown = place if is_name else Path(place).name or place
    plain = shown.removeprefix("hub:").partition("@")[0]
    return shown if name in (place, plain) or public(name) == shown else f"{shown}, for {public(name)}"


def hub_name(place: str, folder: Path) -> str | None:
    """The name under which a model is published, as far as that is proved: it was taken from there, now or when it was
    imported."""
    if is_artifact(folder):
        manifest = open_artifact(folder).manifest
        place = str(manifest["settings"].get("source")) if manifest["kind"] == "model" else ""
    return "/".join(place.removeprefix("hub:").partition("@")[0].split("/")[:2]) if place.startswith("hub:") else None


def _what(plan: Plan, facts: dict[str, Any], places: Mapping[str, str]) -> str:
    base = " + ".join(stood_for(part, places[part]) for part in split_reference(facts["base"]) if part)
    millions = sum(tensor.numel for tensor in plan.tensors) / 1e6
    return (f"Merged with `{facts['method']}`: {millions:,.1f} M parameters in {plan.depth} layers, written in "
            f"{', '.join(facts['dtype'])}; config and, unless the file says otherwise, tokenizer of "
            f"`{base}`.")


def _parents(facts: dict[str, Any], inputs: list[dict[str, Any]], places: Mapping[str, str]) -> str:
    lines = ["| parent | licence | drift of the result from it | share of its changes kept | key |", "|---|---|---|---|---|"]
    for entry in inputs:
        drift, kept = (facts.get(kind, {}).get(entry["name"]) for kind in ("drift", "kept"))
        name = stood_for(entry["name"], places[entry["name"]]).replace("|", "\\|")
        lines.append(f"| {name} | {entry['licence'] or 'not stated'} | {_share(drift)} | {_share(kept)} | "
                     f"`{entry['key'][:16]}` |")
    return "\n".join([*lines, "", "Drift is |result - parent| / |parent|, averaged over tensors by size."])


def _effects(facts: dict[str, Any]) -> list[str]:
    said = []
    if "branches" in facts:
        said.append(f"{facts['branches']['slerp']} tensors were interpolated on the sphere; {facts['branches']['lerp']} were so "
                    "nearly parallel that they were interpolated linearly.")
    if facts.get("sign_conflicts") is not None:
        said.append(f"In {_share(facts['sign_conflicts'])} of the entries the parents' changes had opposite signs.")
    if zero := facts.get("zero_tensors"):
        said.append(f"All zeros, in the result or in a parent: {', '.join(f'`{name}`' for name in zero[:5])}"
                    + (f" and {len(zero) - 5} more." if len(zero) > 5 else "."))
    return said


def _farthest(rows: list[dict[str, Any]], count: int = 5) -> str:
    """The tensors that moved most from the nearest of their parents."""
    drifts = [(min(known), row["name"]) for row in rows
              if (known := [value for value in row["drift"].values() if value is not None])]
    drifts = sorted(drifts, key=lambda one: -one[0])[:count]
    if not any(drift for drift, _ in drifts):
        return ""
    lines = ["| tensors farthest from every parent | drift from the nearest |", "|---|---|"]
    return "\n".join(lines + [f"| `{name}` | {_share(drift)} |" for drift, name in drifts])


def _file(plan: Plan) -> str:
    text = plan.merge.document.path.read_text(encoding="utf-8").strip()
    for name in plan.merge.places:
        text = text.replace(name, public(name))
    return f"## The merge file\n\n```yaml\n{text}\n```"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
