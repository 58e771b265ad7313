"""Formulas as one line of text: MathML linearised, or the LaTeX that stands beside it."""

import re
from typing import Any

_DOCUMENT = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)
_BOUND = 64  # deeper formulas are flattened


def formula(element: Any, depth: int = 0) -> str:
    """The text of a formula element: MathML if it has some, else LaTeX, else its own words."""
    for child in element.iter("{*}math"):
        return " ".join(_mathml(child, depth).split())
    for child in element.iter("{*}tex-math"):
        return _latex(child)
    return " ".join("".join(element.itertext()).split())


def _latex(element: Any) -> str:
    """PMC wraps each formula in a whole LaTeX document: only what stands inside counts."""
    text = "".join(element.itertext())
    match = _DOCUMENT.search(text)
    return " ".join((match[1] if match else text).replace("$$", "").split())


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
        return f" {text} " if name == "mo" and len(text) == 1 and text in "=<>≤≥≈±×→∈+−" else text
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
