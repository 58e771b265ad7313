"""The table of a model's forms as bars side by side: an HTML page that needs no network, and an SVG picture."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from biomistral.quantization.table import COLUMNS, Row, cell

_COLOUR, _REFERENCE, _INK = "#2f6fab", "#9aa5b1", "#22313f"
_ROW, _PANEL, _GAP, _LEFT, _TOP = 26, 190, 40, 110, 64


@dataclass(frozen=True)
class Panel:
    """One measurement of every form: (length of the bar, interval or None); what was not taken has no bar."""

    key: str
    title: str
    values: list[float | None]
    intervals: list[tuple[float, float] | None]


_SHOWN = (("resident_bytes", "in memory, MB", 1e-6), ("bytes", "on disk, MB", 1e-6), ("kl_mean", "KL divergence, nats", 1.0),
          ("difference", "accuracy against 16 bits, points", 100.0), ("relative_time", "time, 16 bits = 1", 1.0))


def panels(rows: Sequence[Row]) -> list[Panel]:
    """What is drawn: memory (else size), divergence, accuracy and time, each where it was measured."""
    found: list[Panel] = []
    for key, title, factor in _SHOWN:
        known = any(panel.key == "resident_bytes" for panel in found)
        if all(row.get(key) is None for row in rows) or (key == "bytes" and known):
            continue
        raw = [row.get(key) for row in rows]
        values = [None if value is None else factor * (value[0] if key == "difference" else value) for value in raw]
        intervals = [(factor * value[1], factor * value[2]) if key == "difference" and value is not None else None
                     for value in raw]
        found.append(Panel(key, title, values, intervals))
    return found


def page(rows: Sequence[Row], title: str) -> str:
    """The whole page, chart library included."""
    from plotly.offline import get_plotlyjs

    figure = json.dumps(_figure(rows)).replace("<", "\\u003c")
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
            f"<script>{get_plotlyjs()}</script></head>\n<body><h1 style='font: 1.2rem sans-serif'>{html.escape(title)}</h1>"
            f'<div id="forms"></div>\n<script>const figure = {figure};\n'
            "Plotly.newPlot('forms', figure.data, figure.layout, {responsive: true});</script></body></html>\n")


def _figure(rows: Sequence[Row]) -> dict[str, Any]:
    drawn, data = panels(rows), []
    layout: dict[str, Any] = {"height": 150 + 34 * len(rows), "bargap": 0.35, "margin": {"t": 20},
                              "yaxis": {"autorange": "reversed", "automargin": True}}
    names = [html.escape(row["form"]) for row in rows]
    for number, panel in enumerate(drawn, 1):
        axis = "" if number == 1 else str(number)
        bar: dict[str, Any] = {
            "type": "bar", "orientation": "h", "x": panel.values, "y": names, "xaxis": f"x{axis}", "yaxis": "y",
            "marker": {"color": [_REFERENCE, *[_COLOUR] * (len(rows) - 1)]}, "showlegend": False,
            "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}
        if any(panel.intervals):
            ends = [interval or (value or 0.0, value or 0.0)
                    for interval, value in zip(panel.intervals, panel.values, strict=True)]
            middles = [value or 0.0 for value in panel.values]
            bar["error_x"] = {"type": "data", "symmetric": False, "color": _INK,
                              "array": [end[1] - middle for end, middle in zip(ends, middles, strict=True)],
                              "arrayminus": [middle - end[0] for end, middle in zip(ends, middles, strict=True)]}
        data.append(bar)
        width = 1 / len(drawn)
        layout[f"xaxis{axis}"] = {"domain": [(number - 1) * width, number * width - 0.04], "title": {"text": panel.title}}
    return {"data": data, "layout": layout}


def picture(rows: Sequence[Row], title: str) -> str:
    """The same bars as SVG."""
    drawn = panels(rows)
    width, height = _LEFT + len(drawn) * (_PANEL + _GAP), _TOP + _ROW * len(rows) + 16
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
             f'font-family="sans-serif" font-size="12" fill="{_INK}">',
             f'<rect width="{width}" height="{height}" fill="white"/>',
             f'<text x="8" y="22" font-size="15">{html.escape(title)}</text>']
    for place, row in enumerate(rows):
        parts.append(f'<text x="{_LEFT - 8}" y="{_TOP + _ROW * place + 17}" text-anchor="end">{html.escape(row["form"])}</text>')
    for number, panel in enumerate(drawn):
        parts += _panel(panel, rows, _LEFT + number * (_PANEL + _GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, rows: Sequence[Row], left: int) -> list[str]:
    """Bars from a common zero, which lies inside the panel where values are negative, with the numbers beside them."""
    ends = [0.0, *(value for value in panel.values if value is not None),
            *(end for interval in panel.intervals if interval for end in interval)]
    low, scale = min(ends), (_PANEL - 60) / ((max(ends) - min(ends)) or 1.0)
    zero = left - low * scale
    column = next(column for column in COLUMNS if column.key == panel.key)
    parts = [f'<text x="{left}" y="{_TOP - 12}" font-weight="bold">{html.escape(panel.title)}</text>']
    for place, (row, value, interval) in enumerate(zip(rows, panel.values, panel.intervals, strict=True)):
        if value is None:
            continue
        top, end = _TOP + _ROW * place + 5, zero + value * scale
        colour = _REFERENCE if place == 0 else _COLOUR
        parts.append(f'<rect x="{min(zero, end):.1f}" y="{top}" width="{abs(end - zero):.1f}" height="{_ROW - 10}" '
                     f'fill="{colour}"/>')
        furthest = max(zero, end)
        if interval:
            start, stop = (zero + bound * scale for bound in interval)
            furthest = max(furthest, stop)
            parts.append(f'<line x1="{start:.1f}" x2="{stop:.1f}" y1="{top + 8}" y2="{top + 8}" stroke="{_INK}"/>')
        text = cell(row, column).partition(" [")[0]
        parts.append(f'<text x="{furthest + 4:.1f}" y="{top + 12}">{html.escape(text)}</text>')
    return parts
