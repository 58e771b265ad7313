"""Take citation marks out of a paragraph without leaving holes: no "[ , ]", no "( )", no " ." and no fused words.

The text writer wraps what a mark says in private-use characters. A number goes, with the brackets, commas and "e.g." that
belong to it, unless the sentence leans on it ("as described in [3]"). A name ("Smith, 2010") goes only where it stands in
brackets with nothing but other citations; elsewhere it is a part of the sentence.
"""

import re

NUMBER, NAME, RAISED, END = "\ue000", "\ue001", "\ue002", "\ue003"
"""What stands before the words of a numeric, a named and a superscript mark, and after any of them."""

_MARK = re.compile(f"([{NUMBER}{NAME}{RAISED}])([^{END}]*){END}")
_GLUE = (r"(?:[\s,;:.\d\u2010-\u2015\-&]|\b(?:and|see|also|e\.?g|i\.?e|cf|refs?|references?|reviewed in|reviewed by|for review|"
         r"for example|y|e|et|und)\b)*")
_BETWEEN = re.compile(_GLUE, re.IGNORECASE)
_OPENED = re.compile(rf"[\[(]{_GLUE}$", re.IGNORECASE)
_CLOSED = re.compile(rf"{_GLUE}[\])]", re.IGNORECASE)
_LEANS = re.compile(r"\b(?:by|in|from|see|of|to|with|than|per|and|or|refs?\.?|references?)\s*$", re.IGNORECASE)
_REACH = 60  # characters before a mark in which its bracket may open: "(reviewed in refs. [3]"


def marked(text: str) -> bool:
    """Whether a text holds citation marks."""
    return END in text


def without_citations(text: str) -> str:
    """The text of a paragraph with its citation marks resolved."""
    text = " ".join(text.split())  # a mark's border must not hide behind a line break
    parts = _MARK.split(text)
    done, at = parts[0], 1
    while at < len(parts):
        last = at
        while last + 3 < len(parts) and _BETWEEN.fullmatch(parts[last + 2]):
            last += 3
        done, parts[last + 2] = _resolve(done, parts[at:last + 2], parts[last + 2])
        done, at = _joined(done, parts[last + 2]), last + 3
    return done.strip()


def _resolve(left: str, run: list[str], right: str) -> tuple[str, str]:
    """What stays left and right of a run of marks: kind, words, what stands between, kind, words, ..."""
    kinds, said = run[::3], "".join(word for number, word in enumerate(run) if number % 3)
    inner_left, inner_right = _unbracketed(left, right)
    numeric = NAME not in kinds
    if numeric and RAISED not in kinds and any(map(str.isdigit, said)) and _LEANS.search(inner_left[-_REACH:]):
        return f"{left}{said}", right
    if inner_left is not left:
        return inner_left, inner_right
    return (left, right) if numeric else (left + _named(run), right)


def _unbracketed(left: str, right: str) -> tuple[str, str]:
    """Both sides without the brackets that hold nothing but citations, however many: "(e.g. [3])"."""
    while (opened := _OPENED.search(left[-_REACH:])) and (closed := _CLOSED.match(right)):
        left = left[:len(left) - len(left[-_REACH:]) + opened.start()]
        right = right[closed.end():]
    return left, right


def _named(run: list[str]) -> str:
    """The run's names with what joins them; numbers among them are dropped."""
    words = ""
    for at in range(0, len(run), 3):
        if run[at] == NAME:
            words += (run[at - 1] if words else " " if at else "") + run[at + 1]
    return words


def _joined(left: str, right: str) -> str:
    """Two sides of a mark that is gone, as if it had never stood there."""
    start, rest = left.rstrip(), right.lstrip()
    if not rest:  # the end, or another mark follows
        return f"{start} " if start != left or right else start
    if start.endswith(("(", "[")):
        return start + rest.lstrip(" ,;")
    if rest[0] in ")]":
        return start.rstrip(" ,;") + rest
    if rest[0] in ",;.:!?":
        return start.rstrip(" ,;") + rest if rest[0] != ":" else start + rest
    apart = start != left or rest != right or (rest[0].isalnum() and start[-1:].isalnum())
    return f"{start} {rest}" if apart and start else start + rest
