"""Formulas as one line of text: the TeX that stands with them, else MathML written out, else their own words."""

import re
from typing import Any

_DOCUMENT = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)
_BOUND = 64  # deeper formulas are flattened
_SPACED = frozenset("=<>\u2264\u2265\u2248\u00b1\u00d7\u2192\u2208+\u2212")
PICTURE = "[formula]"
"""Stands for a formula that is only a picture: a sentence with a visible gap is better than one with a silent one."""


def formula(element: Any) -> str:
    """The text of a formula element: ``$TeX$`` if it has some, else MathML written out, else its words."""
    for child in element.iter("{*}tex-math"):
        if tex := _latex(child):
            return f"${tex}$"
    for child in element.iter("{*}math"):
        return " ".join(_mathml(child, 0).split())
    words = " ".join("".join(_words(element)).split())
    picture = next(element.iter("{*}inline-graphic", "{*}graphic"), None) is not None
    return words or (PICTURE if picture else "")


def _words(element: Any) -> Any:
    """All text of a formula but its number, which stands in a <label>."""
    if element.text:
        yield element.text
    for child in element:
        if not (isinstance(child.tag, str) and child.tag.rpartition("}")[2] in ("label", "alt-text", "long-desc", "object-id")):
            yield from _words(child)
        if child.tail:
            yield child.tail


def _latex(element: Any) -> str:
    """PMC wraps each formula in a whole LaTeX document: only what stands inside counts."""
    text = "".join(element.itertext())
    match = _DOCUMENT.search(text)
    return " ".join((match[1] if match else text).replace("$", " ").split())


def _mathml(element: Any, depth: int) -> str:
    name = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
    if name in ("annotation", "annotation-xml", "mspace"):
        return " "
    if depth > _BOUND:
        return "".join(element.itertext())
    pieces = [_mathml(child, depth + 1) for child in element if isinstance(child.tag, str)]
    parts = [piece.strip() for piece in pieces]
    if not parts:
        text = (element.text or "").strip()
        return f" {text} " if name == "mo" and len(text) == 1 and text in _SPACED else text
    if name in ("msup", "mover") and len(parts) == 2:
        return f"{_grouped(parts[0])}^{_grouped(parts[1])}"
    if name in ("msub", "munder") and len(parts) == 2:
        return f"{parts[0]}_{_grouped(parts[1])}"
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return f"{parts[0]}_{_grouped(parts[1])}^{_grouped(parts[2])}"
    if name == "mfrac" and len(parts) == 2:
        return f"{_grouped(parts[0])}/{_grouped(parts[1])}"
    if name == "msqrt":
        return f"sqrt({''.join(parts)})"
    if name == "mtr":
        return " | ".join(parts)
    return ("; " if name == "mtable" else "").join(pieces)


def _grouped(text: str) -> str:
    return text if len(text) <= 1 or re.fullmatch(r"\w+(\.\d+)?", text) else f"({text})"
