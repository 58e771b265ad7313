"""The first card of a merged model (``README.md``): the merge file, the parents, and what became of them, in words.

``biomistral card`` writes the whole one over it, once there are results.
"""

from typing import Any

import yaml

from biomistral.merging.plan import Plan
from biomistral.readme import compose


def card(plan: Plan, facts: dict[str, Any], inputs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Front matter as the hub reads it, then the report; parents that lie in a folder go by the folder's name."""
    front = {"base_model": [public(entry["name"]) for entry in inputs], "tags": ["merge", "biomistral"],
             "library_name": "transformers"}
    licences = {entry["licence"] for entry in inputs}
    if len(licences) == 1 and None not in licences:
        front["license"] = licences.pop()
    sections = ["# A merged model", _what(plan, facts), _parents(facts, inputs), *_effects(facts), _farthest(rows), _file(plan)]
    return compose(yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
                   "\n\n".join(section for section in sections if section))


def public(name: str) -> str:
    """A model's name without the folders of the machine it was merged on."""
    return "+".join(part.rstrip("/").rpartition("/")[2] if part.startswith((".", "/", "~")) else part for part in name.split("+"))


def _what(plan: Plan, facts: dict[str, Any]) -> str:
    millions = sum(tensor.numel for tensor in plan.tensors) / 1e6
    return (f"Merged with `{facts['method']}`: {millions:,.1f} M parameters in {plan.depth} layers, written in "
            f"{', '.join(facts['dtype'])}; config and, unless the file says otherwise, tokenizer of "
            f"`{public(facts['base'])}`.")


def _parents(facts: dict[str, Any], inputs: list[dict[str, Any]]) -> str:
    lines = ["| parent | licence | drift of the result from it | share of its changes kept | key |", "|---|---|---|---|---|"]
    for entry in inputs:
        drift, kept = (facts.get(kind, {}).get(entry["name"]) for kind in ("drift", "kept"))
        lines.append(f"| {public(entry['name'])} | {entry['licence'] or 'not stated'} | {_share(drift)} | {_share(kept)} | "
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
