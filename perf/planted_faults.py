"""Faults planted in sound translations: how many the checks of a translation find, and how many sound items they flag.

    python perf/planted_faults.py

Twenty questions of four options, translated by hand into four scripts (Spanish, Russian, Arabic, Chinese), are the sound items
(`tests/translated_items.jsonl`). Of each kind of fault twenty are planted, five a language, in items drawn by a seed among those
that have what is to be damaged. A fault counts as found if its item is flagged, as named if the check that is meant for it says
so. Translations back are the English source, lightly reworded, as a good engine gives them. Also measured: items a second of one
core. Written to results/planted_faults.json.
"""

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

from biomistral.translation.checks.every import find_faults
from biomistral.translation.fields import Fields

ITEMS = Path(__file__).parents[1] / "tests" / "translated_items.jsonl"
RESULTS = Path(__file__).parent / "results" / "planted_faults.json"
LANGUAGES = ("es", "ru", "ar", "zh")
A_LANGUAGE = 5
NAMES = ("stem", "A", "B", "C", "D")

WORDS = json.loads(Path(__file__).with_name("planted_words.json").read_text(encoding="utf-8"))
"""What is exchanged for what, by kind of fault and language."""

Fault = Callable[[random.Random, Fields, Fields, str], Fields | None]
"""A damaged translation; None where the item has nothing to damage."""


def replaced(table: dict[str, str], draw: random.Random, said: Fields) -> Fields | None:
    """One of the table's words exchanged where it stands first."""
    places = [(name, word) for name, text in said.items() for word in table if word in text]
    if not places:
        return None
    name, word = draw.choice(places)
    return said | {name: said[name].replace(word, table[word], 1)}


def number(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    """A digit gone, doubled or changed, or the decimal point lost."""
    places = [(name, match) for name, text in said.items() for match in re.finditer(r"\d+(?:[.,٫]\d+)?", text)
              if match[0] != "0"]
    if not places:
        return None
    name, match = draw.choice(places)
    ways = [match[0] + match[0][-1], chr(ord(match[0][0]) - 1) + match[0][1:] if match[0][0] not in "1١" else match[0] + "5"]
    ways += [re.sub(r"[.,٫]", "", match[0])] if re.search(r"[.,٫]", match[0]) else []
    return said | {name: said[name][:match.start()] + draw.choice(ways) + said[name][match.end():]}


def swapped(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    one, other = draw.sample(NAMES[1:], 2)
    return said | {one: said[other], other: said[one]}


def copied(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    half = " ".join(source["stem"].split()[:max(6, len(source["stem"].split()) // 2)])
    return said | {"stem": draw.choice([source["stem"], half + " " + said["stem"][len(said["stem"]) // 2:]])}


def other_language(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    if language in WORDS["others"]:
        return said | {"stem": draw.choice(WORDS["others"][language])}
    return said | {"stem": by_language[draw.choice([one for one in LANGUAGES if one != language])][source["stem"]]}


def refusal(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    words = draw.choice(WORDS["refusals"][language])
    return said | {"stem": draw.choice([words, f"{words} {said['stem']}"])}


def markup(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    name = draw.choice(NAMES)
    ways = [f"**{said[name]}**", f"<b>{said[name]}</b>", f"```json\n{said[name]}\n```", f"&nbsp;{said[name]}"]
    return said | {name: draw.choice(ways + ([f"{name}) {said[name]}"] if name != "stem" else []))}


def placeholder(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    if "_____" in said["stem"]:
        return said | {"stem": said["stem"].replace("_____", "")}
    return said | {"stem": said["stem"] + draw.choice([" {0}", " _____", " [MASK]", " %s", " $x^2$"])}


def repetition(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    name = draw.choice(NAMES)
    word = said[name].split()[-1] if " " in said[name] else said[name][-3:]
    return said | {name: said[name] + (" " + word) * 30} if len(word) > 1 else None


def length(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    text = said["stem"]
    return said | {"stem": draw.choice([text[:max(3, len(source["stem"]) // 20)], " ".join([text, *said.values()] * 3)])}


def duplicate(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    one, other = draw.sample(NAMES[1:], 2)
    return said | {one: said[other] + draw.choice(["", " ", "."])}


def empty(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    name = draw.choice(NAMES)
    if draw.random() < 0.5:
        return {other: text for other, text in said.items() if other != name}
    return said | {name: draw.choice(["", " ", "—", "..."])}


def meaning(draw: random.Random, source: Fields, said: Fields, language: str) -> Fields | None:
    """The translation of another question's stem, without numbers; seen in the translation back."""
    others = [stem for english, stem in by_language[language].items() if english != source["stem"] and not re.search(r"\d", stem)]
    return said | {"stem": draw.choice(others)}


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "number": (number, {"number"}), "unit": (lambda d, s, t, g: replaced(WORDS["units"][g], d, t), {"unit"}),
    "gene or code": (lambda d, s, t, g: replaced(WORDS["named"], d, t), {"name"}),
    "drug": (lambda d, s, t, g: replaced(WORDS["drugs"][g], d, t), {"drug"}),
    "negation lost": (lambda d, s, t, g: replaced(WORDS["lost"][g], d, t), {"negation"}),
    "negation inserted": (lambda d, s, t, g: replaced(WORDS["inserted"][g], d, t), {"negation"}),
    "options swapped": (swapped, {"order", "number", "name", "drug"}), "untranslated": (copied, {"untranslated"}),
    "other language": (other_language, {"language", "script"}), "refusal": (refusal, {"refusal"}), "markup": (markup, {"markup"}),
    "placeholder": (placeholder, {"placeholder"}), "repetition": (repetition, {"repetition"}), "length": (length, {"length"}),
    "duplicate option": (duplicate, {"duplicate"}), "empty or missing": (empty, {"empty", "missing"}),
    "other meaning": (meaning, {"back-translation"}),
}
NEED_BACK = ("options swapped", "other meaning")
by_language: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}


def back_of(source: Fields, sound: Fields, said: Fields) -> Fields:
    """What a good engine makes of a translation: the English of each text that is somebody's translation, reworded a little."""
    english = {sound[name]: source[name] for name in source} | {
        stem: one for stems in by_language.values() for one, stem in stems.items()}
    return {name: re.sub(r"\b([Tt]he|[Aa]n?) ", "", english.get(text, text)).replace("most ", "the most ")
            for name, text in said.items()}


def main() -> None:
    rows = [json.loads(line) for line in ITEMS.read_text(encoding="utf-8").splitlines()]
    items = [(language, dict(zip(NAMES, row["en"], strict=True)), dict(zip(NAMES, row[language], strict=True)))
             for row in rows for language in LANGUAGES]
    for language, source, sound in items:
        by_language[language][source["stem"]] = sound["stem"]
    flagged = [reason for language, source, sound in items for reason in find_faults(source, sound, language)]
    flagged += [reason for language, source, sound in items
                for reason in find_faults(source, sound, language, back_of(source, sound, sound))]
    found: dict[str, dict[str, int]] = {}
    draw = random.Random(0)
    for kind, (plant, checks) in FAULTS.items():
        found[kind] = {"planted": 0, "found": 0, "named": 0}
        for language in LANGUAGES:
            mine = [(source, sound) for own, source, sound in items if own == language]
            planted = 0
            while planted < A_LANGUAGE:
                source, sound = draw.choice(mine)
                damaged = plant(draw, source, sound, language)
                if damaged is None or damaged == sound:
                    continue
                planted += 1
                back = back_of(source, sound, damaged) if kind in NEED_BACK else None
                reasons = find_faults(source, damaged, language, back)
                found[kind]["planted"] += 1
                found[kind]["found"] += bool(reasons)
                found[kind]["named"] += any(reason.check in checks for reason in reasons)
                if not any(reason.check in checks for reason in reasons):
                    print(f"  {kind}, {language}: {reasons[0] if reasons else 'not found'}: {damaged}")
        print(f"{kind:20} " + ", ".join(f"{name} {number}" for name, number in found[kind].items()), flush=True)
    started, count = time.process_time(), 0
    while time.process_time() - started < 3:
        for language, source, sound in items:
            find_faults(source, sound, language)
        count += len(items)
    rate = count / (time.process_time() - started)
    total = {name: sum(one[name] for one in found.values()) for name in ("planted", "found", "named")}
    print(f"{total}; sound items {len(items)}, flagged {len(flagged)}; {rate:.0f} items a second of one core")
    found_all = {"faults": found, "total": total, "sound_items": len(items), "sound_items_flagged": len(flagged),
                 "items_per_cpu_second": round(rate)}
    RESULTS.write_text(json.dumps(found_all, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
