"""The lineage of a model as a drawing: results above, below them what they were made from, down to licences."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from biomistral.assets import licence_of
from biomistral.reporting.layers import Layout, layout
from biomistral.reporting.lineage import Node, label

_WIDE, _HIGH = 156, 44
_GAP = (18.0, 30.0)
_LETTERS = 20
"""So many letters of a name find room in a box."""
_MOST_FILES = 3
"""More plain files of one maker are one box."""
_MOST_LICENCES = 4


@dataclass(frozen=True)
class Box:
    """What stands in a box, in two lines."""

    kind: str
    name: str


def lineage_graph(results: Sequence[Node]) -> Markup:
    """The drawing; what has several uses is drawn once. The nested list beside it says the same, so it is hidden from screen
    readers."""
    boxes: dict[str, Box] = {}
    below: dict[str, list[str]] = {}
    for result in results:
        for node in result.walk():
            boxes[node.key] = Box(node.kind, label(node))
            below[node.key] = [*_made_from(node, boxes), *_licences(node, boxes)]
    below |= {key: [] for key in boxes if key not in below}
    used = {one for parts in below.values() for one in parts}
    loose = boxes.keys() - used - {result.key for result in results}  # files that became one box
    return _drawn({key: box for key, box in boxes.items() if key not in loose},
                  layout({key: parts for key, parts in below.items() if key not in loose}, (_WIDE, _HIGH), _GAP))


def _made_from(node: Node, boxes: dict[str, Box]) -> list[str]:
    files = [part.key for part in node.inputs if part.kind == "file"]
    if len(set(files)) <= _MOST_FILES:
        return [part.key for part in node.inputs]
    bundle = f"files of {node.key}"
    boxes[bundle] = Box("files", f"{len(set(files)):,} files")
    return [*(part.key for part in node.inputs if part.kind != "file"), bundle]


def _licences(node: Node, boxes: dict[str, Box]) -> list[str]:
    """The most frequent licences of a corpus, or of a node below which nothing states any, a box each, and one for the rest. All
    that is made of these has their licences too; the list says them again, the drawing would be ten times as wide."""
    stated = _stated(node) if node.kind == "corpus" or not any(_stated(part) for part in node.walk() if part is not node) else {}
    found = sorted(((name, count) for name, count in stated.items() if count != 0),
                   key=lambda item: (-item[1] if isinstance(item[1], int) else 0, item[0]))
    rest = found[_MOST_LICENCES:] if len(found) > _MOST_LICENCES + 1 else []
    drawn = {f"licence {name}" + f" of {node.key}" * isinstance(count, int): Box(_licence_words(node, count), name)
             for name, count in found[:len(found) - len(rest)]}
    drawn |= {f"licences of {node.key}": Box("licences", f"{len(rest)} more")} if rest else {}
    boxes |= drawn
    return list(drawn)


def _stated(node: Node) -> dict[str, Any]:
    return node.licences or ({licence: ""} if (licence := licence_of(node.name)) else {})


def _licence_words(node: Node, count: object) -> str:
    if not isinstance(count, int):
        return "licence"
    return f"licence of {count:,}" + (f" article{'s' if count != 1 else ''}" if node.kind == "corpus" else "")


def fitted(text: str, letters: int = _LETTERS) -> str:
    """Text that finds room: letters of full width count twice; of more the ends stay, for names often differ in these."""
    widths = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text]
    if sum(widths) <= letters:
        return text
    head, tail, room = 0, 0, letters - 1
    while True:
        front = head <= tail
        room -= widths[head] if front else widths[-1 - tail]
        if room < 0:
            return f"{text[:head]}…{text[len(text) - tail:]}"
        head, tail = head + front, tail + (not front)


def _drawn(boxes: dict[str, Box], found: Layout) -> Markup:
    parts = Markup('<svg class="lineage" viewBox="-1 -1 {0:.0f} {1:.0f}" width="{0:.0f}" aria-hidden="true">').format(
        found.width + 2, found.height + 2)
    parts += Markup('<path class="edges" d="{}"/>').format("".join(_curve(points) for points in found.edges))
    licences = [key for key, box in boxes.items() if box.kind.startswith("licence")]
    for name, keys in (("boxes", [key for key in boxes if key not in licences]), ("licences", licences)):
        corners = (found.nodes[key] for key in keys)
        outlines = "".join(f"M{x - _WIDE / 2:.0f} {y - _HIGH / 2:.0f}h{_WIDE}v{_HIGH}h-{_WIDE}z" for x, y in corners)
        parts += Markup('<path class="{}" d="{}"/>').format(name, outlines) if outlines else ""
    return parts + Markup("").join(_texts(boxes, found)) + Markup("</svg>")


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """From the foot of the upper box through the gaps to the head of the lower one."""
    half, (x, y) = _HIGH / 2, points[0]
    path = f"M{x:.0f} {y + half:.0f}"
    for number, (across, down) in enumerate(points[1:], 2):
        top = down - half
        middle = top - _GAP[1] / 2
        path += f"C{x:.0f} {middle:.0f} {across:.0f} {middle:.0f} {across:.0f} {top:.0f}"
        if number < len(points):
            path += f"V{down + half:.0f}"
        x = across
    return path


def _texts(boxes: dict[str, Box], found: Layout) -> Iterator[Markup]:
    for key, box in boxes.items():
        x, y = found.nodes[key]
        yield Markup('<text class="kind" x="{0:.0f}" y="{1:.0f}">{2}</text><text x="{0:.0f}" y="{3:.0f}">{4}</text>').format(
            x, y - 6, fitted(box.kind, 24), y + 12, fitted(box.name))
