"""How a model was made, from its chain: what quantising cost, how far a merge drifted, how training went."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomistral.artifact import is_artifact, open_artifact
from biomistral.errors import UserError
from biomistral.reporting.charts import Chart, loss_chart, percent
from biomistral.reporting.figures import drift_chart
from biomistral.reporting.lineage import Node, label
from biomistral.reporting.results import Results
from biomistral.reporting.words import points

_WORDS = {"quantize": "Quantised", "merge": "Merged", "pretrain": "Trained further", "finetune": "Fine-tuned",
          "select": "Selected"}
_TOLD = ("method", "steps", "epochs", "learning_rate", "sequence_length", "protocol", "group")
_LAYER = re.compile(r"(?:layers|h|blocks)\.(\d+)\.")


def model_node(result: Results) -> Node | None:
    """The model in the chain of its results; None of a model on a server."""
    chain = result.lineage
    return next((part for part in chain.inputs if part.name == chain.settings.get("model")), None)


def folder_of(node: Node) -> Path | None:
    """Where an artifact still lies, if what lies there is still it."""
    return node.path if is_artifact(node.path) and open_artifact(node.path).key == node.key else None


def stages(model: Node) -> Iterator[dict[str, Any]]:
    """What there is to tell of each stage that made a model, the last one first: words, a table, and charts."""
    for number, node in enumerate(part for part in model.walk() if part.kind in _WORDS):
        yield {"kind": node.kind, "words": _WORDS[node.kind], "name": label(node), "content": node.content,
               "facts": _facts(node), "table": _table(node), "charts": list(_charts(node, f"stage-{number}"))}


def _facts(node: Node) -> dict[str, str]:
    """A few settings in words."""
    facts = node.facts
    if node.kind == "quantize":
        return _known({"method": facts.get("method"), "bits": facts.get("bits"), "group size": facts.get("group_size"),
                       "layout": facts.get("layout")})
    if node.kind == "merge":
        conflicts = facts.get("sign_conflicts")
        return _known({"method": facts.get("method"), "base": _short(facts.get("base")),
                       "type": ", ".join(facts.get("dtype", ())),
                       "signs in conflict": None if conflicts is None else percent(conflicts)})
    return _known({name: node.settings.get(name) for name in _TOLD})


def _known(values: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value not in (None, "", 0)}


def _short(name: Any) -> str | None:
    """A model's name without the folders of the machine."""
    return None if name is None else str(name) if str(name).startswith(("embedded:", "hub:", "stage:")) else Path(str(name)).name


def _table(node: Node) -> dict[str, Any] | None:
    if node.kind == "quantize":
        return quantisation(node.facts)
    if node.kind == "merge" and node.facts.get("drift"):
        kept = node.facts.get("kept") or {}
        rows = [[_short(name), percent(value, 2), *([percent(kept.get(name))] if kept else [])]
                for name, value in node.facts["drift"].items()]
        return {"caption": "How far the result lies from each parent, as a share of the parent's length",
                "columns": ["Parent", "Drift", *(["Kept"] if kept else [])], "rows": rows}
    return None


def quantisation(facts: dict[str, Any]) -> dict[str, Any]:
    """What a quantised form costs and keeps, beside 16 bits: only rows that were measured."""
    size, speed = facts.get("size", {}), facts.get("speed", {})
    perplexity, divergence = facts.get("perplexity", {}), facts.get("kl_divergence", {})
    asked = facts.get("questions", {})
    accuracy, seconds = asked.get("accuracy", {}), facts.get("seconds_per_question", {})
    rows = [["On disk, MB", _mega(size.get("reference_bytes")), _mega(size.get("bytes"))],
            ["Bits a weight", "16.00" if size else None, _number(size.get("bits_per_weight"), 2)],
            _both("In memory, MB", speed, "resident_bytes", _mega),
            ["Perplexity", *(_number(perplexity.get(which), 2) for which in ("reference", "quantized"))],
            ["KL divergence, nats", None, _number(divergence.get("mean"), 4)],
            ["KL divergence, 99th percentile", None, _number(divergence.get("p99"), 4)],
            ["Next tokens changed", None, percent(facts["argmax_flips"]) if "argmax_flips" in facts else None],
            [f"Accuracy, {asked.get('protocol')}", *(percent(accuracy[which]) if accuracy else None
                                                     for which in ("reference", "quantized"))],
            ["Difference, points", None, f"{points(accuracy['difference'])} [{points(accuracy['interval'][0])}, "
                                         f"{points(accuracy['interval'][1])}]" if accuracy else None],
            ["Seconds a question", *(_number(seconds.get(which), 3) for which in ("reference", "quantized"))],
            _both("Prompt, tokens/s", speed, "prefill_tokens_per_second", _whole),
            _both("Answer, tokens/s", speed, "decode_tokens_per_second", lambda value: _number(value, 1))]
    return {"caption": "What this form costs and keeps, beside the 16-bit model", "columns": ["", "16 bits", "This form"],
            "rows": [[cell or "–" for cell in row] for row in rows if row[2] is not None]}


def _both(title: str, speed: dict[str, Any], name: str, write: Any) -> list[str | None]:
    return [title, *(write((speed.get(which) or {}).get(name)) for which in ("reference", "quantized"))]


def _mega(value: float | None) -> str | None:
    return None if value is None else f"{value / 1e6:,.1f}"


def _whole(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"


def _charts(node: Node, name: str) -> Iterator[Chart]:
    folder = folder_of(node)
    if folder is None:
        return
    if (folder / "metrics.jsonl").is_file():
        yield replace(loss_chart({label(node): folder}), id=f"{name}-loss")
    if node.kind == "merge" and (layers := layer_drift(folder / "merge.json")):
        yield drift_chart(f"{name}-drift", layers)


def layer_drift(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Mean drift of each layer's tensors from each parent, by parent; empty where there are no such layers.

    Raises:
        UserError: the file is not what ``merge`` writes.
    """
    found: dict[str, dict[int, list[float]]] = {}
    try:
        tensors = json.loads(file.read_text(encoding="utf-8"))["tensors"] if file.is_file() else []
        for tensor in tensors:
            layer = _LAYER.search(tensor["name"])
            for parent, value in tensor["drift"].items():
                if layer and value is not None and math.isfinite(value):
                    found.setdefault(parent, {}).setdefault(int(layer[1]), []).append(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not what 'merge' writes ({error!r}); merge again") from error
    return {_short(parent) or parent: [(number, sum(values) / len(values)) for number, values in sorted(layers.items())]
            for parent, layers in found.items() if len(layers) > 1}
