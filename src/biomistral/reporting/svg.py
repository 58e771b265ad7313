"""Charts as inline SVG: axes with round ticks, lines, marks, intervals. Colours are classes: a chart follows the theme."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

COLOURS = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 8, 40
_TEXT = 7.2
"""Width of a character at the font size of charts, so that names of rows have room."""


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``; with ``names`` the places 0, 1, ... carry these instead of numbers."""

    title: str
    low: float
    high: float
    names: Sequence[str] = ()

    def ticks(self) -> list[tuple[float, str]]:
        """Where ticks stand, and what they say."""
        if self.names:
            return list(enumerate(self.names))
        step = round_step((self.high - self.low) / 6)
        digits = max(0, -math.floor(math.log10(step)))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(number * step, f"{number * step:,.{digits}f}".replace("-", "−")) for number in range(first, last + 1)]


def round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is at least this."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next((factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9)), power)


@dataclass(frozen=True)
class Series:
    """Points of one colour (0 and up; -1: muted), with a line through them, marks of these radii, or intervals along x.

    ``titles`` say what a mark is where the pointer rests on it."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    line: bool = True
    dashed: bool = False
    radii: Sequence[float] = ()
    titles: Sequence[str] = ()
    spans: Sequence[tuple[float, float]] = field(default_factory=tuple)

    @property
    def colour_class(self) -> str:
        return "muted" if self.colour < 0 else f"s{self.colour % COLOURS + 1}"


@dataclass(frozen=True)
class _Frame:
    x: Axis
    y: Axis
    width: int
    height: int
    left: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place in the drawing; a vertical axis of names runs downwards."""
        across = (x - self.x.low) / (self.x.high - self.x.low)
        up = (y - self.y.low) / (self.y.high - self.y.low)
        up = 1 - up if self.y.names else up
        return (self.left + across * (self.width - self.left - _RIGHT),
                self.height - _BOTTOM - up * (self.height - _TOP - _BOTTOM))


def draw(series: Sequence[Series], x: Axis, y: Axis, width: int = 440, height: int = 300) -> Markup:
    """The drawing; what it shows must stand beside it as text, so it is hidden from screen readers."""
    left = min(160.0, 16 + _TEXT * max(map(len, y.names))) if y.names else _LEFT
    frame = _Frame(x, y, width, height, left)
    parts = [*_axes(frame), *(part for one in series for part in _series(frame, one))]
    return (Markup('<svg class="chart" viewBox="0 0 {} {}" aria-hidden="true" focusable="false">').format(width, height)
            + Markup("").join(parts) + Markup("</svg>"))


def _axes(frame: _Frame) -> Iterator[Markup]:
    bottom, right = frame.height - _BOTTOM, frame.width - _RIGHT
    across = [(frame.at(value, frame.y.low)[0], text) for value, text in frame.x.ticks()]
    down = [(frame.at(frame.x.low, value)[1], shortened(text)) for value, text in frame.y.ticks()]
    grid = [*(f"M{x:.0f} {_TOP}V{bottom}" for x, _ in across), *(f"M{frame.left:.0f} {y:.0f}H{right}" for y, _ in down)]
    yield Markup('<path class="grid" d="{}"/>').format("".join(grid))
    yield from _texts("middle", [(x, bottom + 16, text) for x, text in across])
    yield from _texts("end", [(frame.left - 6, y + 4, text) for y, text in down])
    yield Markup('<text class="title" x="{:.0f}" y="{}" text-anchor="middle">{}</text>').format(
        (frame.left + right) / 2, frame.height - 6, frame.x.title)
    if frame.y.title:
        yield Markup('<text class="title" transform="translate(12 {:.0f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (_TOP + bottom) / 2, frame.y.title)


def _texts(anchor: str, texts: Sequence[tuple[float, float, str]]) -> Iterator[Markup]:
    yield Markup('<g text-anchor="{}">').format(anchor)
    yield from (Markup('<text x="{:.0f}" y="{:.0f}">{}</text>').format(x, y, text) for x, y, text in texts)
    yield Markup("</g>")


def shortened(text: str, longest: int = 20) -> str:
    """At most so many characters; of more the ends stay, for names often differ in these."""
    ending = longest // 2 - 1
    return text if len(text) <= longest else f"{text[:longest - ending - 1]}…{text[-ending:]}"


def _series(frame: _Frame, one: Series) -> Iterator[Markup]:
    places = [frame.at(x, y) for x, y in one.points]
    dashed = Markup(' stroke-dasharray="5 4"') if one.dashed else Markup("")
    if one.line and places:
        path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
        yield Markup('<path class="{}" d="{}"{}/>').format(one.colour_class, path, dashed)
    for (_, y), (low, high) in zip(one.points, one.spans, strict=False):
        (start, down), (end, _) = frame.at(low, y), frame.at(high, y)
        yield Markup('<path class="span {}" d="M{:.1f} {:.1f}H{:.1f}"/>').format(one.colour_class, start, down, end)
    for index, ((across, down), radius) in enumerate(zip(places, one.radii, strict=False)):
        title = Markup("<title>{}</title>").format(one.titles[index]) if one.titles else Markup("")
        yield Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}">{}</circle>').format(
            one.colour_class, across, down, radius, title)
