"""Which option a text answers, or why that cannot be told: an answer that cannot be read is *unparsed*, never guessed.

A letter counts where the text begins with it, where it stands alone behind words such as "answer is", or in a box; else the one
option whose words the text repeats. Texts that name two different options this way are unparsed.
"""

import re
from collections.abc import Sequence

EXTRACTION_VERSION = 1
_WORD = re.compile(r"[^\W_]+")
_START = re.compile(r"^[\s*_(\[\"'`]*([A-Za-z])(?=[)\].:,;*_\"`]|'(?!\w)|\s*$|\s*\n)")
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*\(?([A-Z])\b")
_SAID = re.compile(r"(?i:answer|option|choice)\b(?i:\s+(?:is|would be|should be))?[\s:*_(\[\"'`]{1,6}([A-Z])(?![A-Za-z0-9'’-])")


def extract(text: str, options: Sequence[str], letters: str) -> tuple[str, str]:
    """The letter that a text answers and ``""``, or ``""`` and the reason why it is unparsed.

    Reasons: ``empty``, ``no option named``, ``several options named``, ``letter outside the options``.
    """
    if not text.strip():
        return "", "empty"
    if start := _START.match(text):
        return _checked({start.group(1).upper()}, letters)
    named = {*_BOXED.findall(text)} or {*_SAID.findall(text)}
    if named:
        return _checked(named, letters)
    return _checked(_repeated(text, options, letters), letters)


def _checked(named: set[str], letters: str) -> tuple[str, str]:
    if len(named) != 1:
        return "", "several options named" if named else "no option named"
    letter = next(iter(named))
    return (letter, "") if letter in letters else ("", "letter outside the options")


def _repeated(text: str, options: Sequence[str], letters: str) -> set[str]:
    """Options whose words stand in the text, but for those that only stand inside another one that does."""
    words = _words(text)
    there = {letter: _words(option) for letter, option in zip(letters, options, strict=False) if _words(option) in words}
    return {letter for letter, own in there.items()
            if not any(own != other and own in other for other in there.values())}


def _words(text: str) -> str:
    return " " + " ".join(_WORD.findall(text.casefold())) + " "
