"""What memory and time buy: accuracy of quantised forms and of the models they were made from, beside their size and speed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from biomistral.reporting import making
from biomistral.reporting.charts import Chart
from biomistral.reporting.compare import Difference, paired
from biomistral.reporting.figures import tradeoff_chart
from biomistral.reporting.lineage import Node
from biomistral.reporting.page import Page
from biomistral.reporting.results import Run
from biomistral.reporting.site_data import SiteData

PATH = "quantisation.html"
_WITH_BITS = ("rtn", "awq", "gptq", "awq-gptq")


@dataclass(frozen=True)
class Form:
    """How a model is stored, and what its quantisation report measured of it: bytes, seconds; None of what nobody measured.

    ``original`` is the key of the model that a quantised one was made from; the original's own numbers are of that report too."""

    method: str
    original: str | None
    bits_per_weight: float | None
    stored_bytes: int | None
    resident_bytes: int | None
    seconds_per_question: float | None
    perplexity: float | None
    divergence: float | None


def pages(site: SiteData) -> Iterator[Page]:
    """``quantisation.html``, if one of the models is a quantised form."""
    nodes = {name: making.model_node(site.of_model(name)[0]) for name in site.models}
    forms = forms_of({name: node for name, node in nodes.items() if node is not None})
    if forms:
        yield Page(PATH, "Memory and time", "tradeoff.html.j2", partial(_data, site, forms), nav="Quantisation")


def forms_of(nodes: Mapping[str, Node]) -> dict[str, Form]:
    """By name, the quantised among these models and those that they were made from."""
    quantised = {name: node for name, node in nodes.items() if node.kind == "quantize"}
    reports = {_original(node): node.facts for node in quantised.values()}
    originals = {name: _form(reports[node.key], "reference", None) for name, node in nodes.items()
                 if name not in quantised and node.key in reports}
    return {**originals, **{name: _form(node.facts, "quantized", _original(node)) for name, node in quantised.items()}}


def _original(node: Node) -> str | None:
    return next((part.key for part in node.inputs if part.name == node.settings.get("model")), None)


def _form(facts: Mapping[str, Any], which: str, original: str | None) -> Form:
    """One side of a report: ``which`` is ``reference`` or ``quantized``."""
    new, size = which == "quantized", facts.get("size", {})
    bits = f", {facts.get('bits')} bits" if facts.get("method") in _WITH_BITS else ""
    return Form(method=f"{facts.get('method', 'quantised')}{bits}" if new else "16 bits", original=original,
                bits_per_weight=size.get("bits_per_weight") if new else 16.0,
                stored_bytes=size.get("bytes" if new else "reference_bytes"),
                resident_bytes=(facts.get("speed", {}).get(which) or {}).get("resident_bytes"),
                seconds_per_question=facts.get("seconds_per_question", {}).get(which),
                perplexity=facts.get("perplexity", {}).get(which),
                divergence=facts.get("kl_divergence", {}).get("mean") if new else None)


def _data(site: SiteData, forms: Mapping[str, Form]) -> dict[str, Any]:
    return {"boards": [_board(site, number, forms) for number, board in enumerate(site.boards)
                       if any(run.model.name in forms for run in board)]}


def _board(site: SiteData, number: int, forms: Mapping[str, Form]) -> dict[str, Any]:
    board = [run for run in site.boards[number] if run.model.name in forms]
    rows = [{"run": run, "form": forms[run.model.name], "path": site.model_path(run.model.name),
             "difference": _to_original(run, board, forms, site.settings.seed)} for run in board]
    return {"number": number, "view": site.views[number], "run": board[0], "rows": rows,
            "charts": list(_charts(number, board, forms))}


def _to_original(run: Run, board: Sequence[Run], forms: Mapping[str, Form], root: int) -> Difference | None:
    """Paired, to the model that it was made from, if that stands on the same board."""
    original = forms[run.model.name].original
    other = next((one for one in board if one.model.key == original), None)
    return None if other is None else paired(run, other, root=root)


def _charts(number: int, board: Sequence[Run], forms: Mapping[str, Form]) -> Iterator[Chart]:
    """Accuracy against memory (where it was not measured of all, the size on disk) and against time (as evaluated, if the reports
    do not tell it)."""
    found = [forms[run.model.name] for run in board]
    resident = [form.resident_bytes for form in found]
    sizes = resident if None not in resident else [form.stored_bytes for form in found]
    words = ("Accuracy and memory", "in memory, MB") if None not in resident else ("Accuracy and size on disk", "on disk, MB")
    yield from _chart(f"memory-{number}", *words, board, [size and size / 1e6 for size in sizes])
    seconds = [form.seconds_per_question for form in found]
    if None in seconds:
        seconds = [1 / pace if (pace := run.summary.questions_per_second) else None for run in board]
    milliseconds = [one and 1000 * one for one in seconds]
    yield from _chart(f"time-{number}", "Accuracy and time", "milliseconds a question", board, milliseconds)


def _chart(name: str, title: str, words: str, board: Sequence[Run], costs: Sequence[float | None]) -> Iterator[Chart]:
    known = [(run, cost) for run, cost in zip(board, costs, strict=True) if cost is not None]
    if len(known) > 1:
        yield tradeoff_chart(name, title, words, known)
