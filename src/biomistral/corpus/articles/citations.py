"""Take citation marks out of a paragraph without leaving holes: no "[ , ]", no "( )", no " ." and no fused words.

The text writer wraps what a mark says in characters that no XML can hold. A number goes, with the brackets, commas and
"e.g." that belong to it, unless the sentence leans on it ("as described in [3]"). A name ("Smith, 2010") goes only where it
stands in brackets with nothing but other citations; elsewhere it is a part of the sentence.
"""

import re

NUMBER, NAME, RAISED, END = "\x01", "\x02", "\x03", "\x04"
"""What stands before the words of a numeric, a named and a superscript mark, and after any of them."""

_MARK = re.compile(f"([{NUMBER}{NAME}{RAISED}])([^{END}]*){END}")
_WORDS = (r"\b(?:and|see|also|e\.?g|i\.?e|cf|refs?|references?|reviewed in|reviewed by|for review|for example|y|e|et|und)\b")
_GLUE = rf"(?:[\s,;:.\d\u2010-\u2015\-&]|{_WORDS})*"
_BETWEEN = re.compile(rf"(?:[\s,;:.\u2010-\u2015\-&]|{_WORDS})*", re.IGNORECASE)
_BETWEEN_IN_BRACKETS = re.compile(_GLUE, re.IGNORECASE)  # "[{1}, 5, {7}]", but not "rate{1} 12 {2}"
_USUAL = frozenset(("", " ", ",", ", ", "; ", "-", "\u2013"))
_OPENED = re.compile(rf"[\[(]{_GLUE}$", re.IGNORECASE)
_CLOSED = re.compile(rf"{_GLUE}[\])]", re.IGNORECASE)
_LEANS = re.compile(r"\b(?:by|in|from|see|of|to|with|than|per|and|or|refs?\.?|references?)\s*$", re.IGNORECASE)
_REFERS = re.compile(r"\b(?:refs?\.?|references?)\s*$", re.IGNORECASE)
_LONGEST_LEANING = 14
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
        last, between = at, _BETWEEN if _opening(done) is None else _BETWEEN_IN_BRACKETS
        while last + 3 < len(parts) and (parts[last + 2] in _USUAL or between.fullmatch(parts[last + 2])):
            last += 3
        done, parts[last + 2] = _resolve(done, parts[at:last + 2], parts[last + 2])
        done, at = _joined(done, parts[last + 2]), last + 3
    return done.strip()


def _resolve(left: str, run: list[str], right: str) -> tuple[str, str]:
    """What stays left and right of a run of marks: kind, words, what stands between, kind, words, ..."""
    kinds = run[::3]
    inner_left, inner_right = _unbracketed(left, right)
    if NAME in kinds and inner_left is left:
        return left + _named(run), right
    leans = _REFERS if RAISED in kinds else _LEANS
    if leans.search(inner_left[-_LONGEST_LEANING:]):
        said = "".join(word for number, word in enumerate(run) if number % 3)
        if any(map(str.isalnum, said)):
            return f"{left}{said}", right
    return inner_left, inner_right


def _unbracketed(left: str, right: str) -> tuple[str, str]:
    """Both sides without the brackets that hold nothing but citations, however many: "(e.g. [3])"."""
    while (start := _opening(left)) is not None and (closed := _CLOSED.match(right)):
        left, right = left[:start], right[closed.end():]
    return left, right


def _opening(left: str) -> int | None:
    """Where the bracket stands that is open at the end of a text, with nothing but glue since; None if there is none."""
    tail = left[-_REACH:]
    if "(" not in tail and "[" not in tail:  # most marks stand in none: a regular expression would cost ten times as much
        return None
    opened = _OPENED.search(tail)
    return None if opened is None else len(left) - len(tail) + opened.start()


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
    if rest[0] in ",;.:!?" and not rest[1:2].isalnum():  # ".We" would become a word of its own with what it follows
        return start.rstrip(" ,;") + rest if rest[0] != ":" else start + rest
    apart = start != left or rest != right or (rest[0].isalnum() and (start[-1:].isalnum() or start[-1:] in ",;.:!?)]"))
    return f"{start} {rest}" if apart and start else start + rest
