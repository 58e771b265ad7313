"""The faults that no question can have, whoever translated it."""

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason


def broken(source: Fields, translated: Fields) -> list[Reason]:
    """Fields that are missing or empty, and options that became the same."""
    found = [Reason("missing", name, "not translated") for name in source if name not in translated]
    found += [Reason("empty", name, "nothing but white space") for name in source if not translated.get(name, "x").strip()]
    first: dict[str, str] = {}
    for name in (name for name in source if len(name) == 1 and translated.get(name, "").strip()):
        other = first.setdefault(translated[name].strip().casefold(), name)
        if other != name and source[other].strip().casefold() != source[name].strip().casefold():
            found.append(Reason("duplicate", name, f"the same as option {other}: {translated[name].strip()!r}"))
    return found
