"""A drawing of what was made from what: nodes in layers, each below all that it is an input of, after Sugiyama (1981).

The same graph gives the same drawing. A cycle, which no chain of hashes has, loses the edge that closes it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

_SWEEPS = 4
Place: TypeAlias = tuple[str, ...]
"""A node by its name; of an edge that passes a layer both ends and the layer."""
Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Centres of the nodes, the points that each edge runs through, and how wide and high all of it is."""

    nodes: Mapping[str, Point]
    edges: Sequence[Sequence[Point]]
    width: float
    height: float


def layout(below: Mapping[str, Sequence[str]], box: Point, gap: Point, passing: float = 16) -> Layout:
    """Place a graph. ``below`` names for each node those drawn below it; ``box`` and ``gap`` are widths and heights; an edge that
    passes a layer takes ``passing`` of its width."""
    ordered, kept = _acyclic(below)
    depth = _depths(ordered, kept)
    routes = [_route(upper, lower, depth) for upper in ordered for lower in kept[upper]]
    layers = _layers(ordered, depth, routes)
    for sweep in range(_SWEEPS):
        _sort(layers, routes, down=sweep % 2 == 0)
    sizes = [[box[0] if len(one) == 1 else passing for one in layer] for layer in layers]
    width = max(sum(row) + gap[0] * (len(row) - 1) for row in sizes)
    places: dict[Place, Point] = {}
    for level, (layer, row) in enumerate(zip(layers, sizes, strict=True)):
        across = (width - sum(row) - gap[0] * (len(row) - 1)) / 2
        for one, size in zip(layer, row, strict=True):
            places[one] = (across + size / 2, box[1] / 2 + level * (box[1] + gap[1]))
            across += size + gap[0]
    return Layout({one[0]: point for one, point in places.items() if len(one) == 1},
                  [[places[one] for one in route] for route in routes], width, len(layers) * (box[1] + gap[1]) - gap[1])


def _acyclic(below: Mapping[str, Sequence[str]]) -> tuple[list[str], dict[str, list[str]]]:
    """The nodes, each before those below it, and the edges that are no step back on the way to them."""
    done: list[str] = []
    kept: dict[str, list[str]] = {}

    def visit(name: str, way: frozenset[str]) -> None:
        if name in kept:
            return
        ahead = [one for one in dict.fromkeys(below.get(name, ())) if one not in way | {name}]
        kept[name] = ahead
        for one in ahead:
            visit(one, way | {name})
        done.append(name)

    for name in below:
        visit(name, frozenset())
    return done[::-1], kept


def _depths(ordered: Sequence[str], kept: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The longest way down to each node."""
    depth = dict.fromkeys(ordered, 0)
    for name in ordered:
        for one in kept[name]:
            depth[one] = max(depth[one], depth[name] + 1)
    return depth


def _route(upper: str, lower: str, depth: Mapping[str, int]) -> list[Place]:
    between = range(depth[upper] + 1, depth[lower])
    return [(upper,), *((upper, lower, str(level)) for level in between), (lower,)]


def _layers(ordered: Sequence[str], depth: Mapping[str, int], routes: Sequence[Sequence[Place]]) -> list[list[Place]]:
    layers: list[list[Place]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in ordered:
        layers[depth[name]].append((name,))
    for route in routes:
        for one in route[1:-1]:
            layers[int(one[2])].append(one)
    return layers


def _sort(layers: list[list[Place]], routes: Sequence[Sequence[Place]], down: bool) -> None:
    """Order each layer by where its neighbours stand in the one before, going down or up: fewer edges cross."""
    near: dict[Place, list[Place]] = {}
    for route in routes:
        for upper, lower in pairwise(route):
            near.setdefault(lower if down else upper, []).append(upper if down else lower)
    for before, layer in pairwise(layers if down else layers[::-1]):
        place = {one: index for index, one in enumerate(before)}
        layer.sort(key=_mean_place(near, place, {one: index for index, one in enumerate(layer)}))


def _mean_place(near: Mapping[Place, Sequence[Place]], place: Mapping[Place, int],
                own: Mapping[Place, int]) -> Callable[[Place], float]:
    def mean(one: Place) -> float:
        found = [place[other] for other in near.get(one, ())]
        return sum(found) / len(found) if found else own[one]

    return mean
