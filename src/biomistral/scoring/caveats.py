"""What a reader must know before believing a model's score, in words: the same in results, on the site and on cards."""

from typing import Any

FOLLOWS_PROMPT_MASS = 0.5
"""Below this mean probability on the option letters a model did not follow the prompt (SPEC section 3)."""


def degenerate_words(letter: str, share: float, score_of_always: float, accuracy: float) -> str:
    """Of a model that gives one letter nearly always; all are shares."""
    return (f"answers {letter} to {100 * share:.0f} % of the questions; always answering {letter} scores "
            f"{100 * score_of_always:.1f} %, this model {100 * accuracy:.1f} %: a habit, not knowledge")


def follows_prompt(letter_mass: float | None) -> bool | None:
    """None where no letters were read."""
    return None if letter_mass is None else letter_mass >= FOLLOWS_PROMPT_MASS


def not_followed_words(letter_mass: float) -> str:
    return f"gives the option letters only {100 * letter_mass:.1f} % of its probability: it did not follow the prompt"


def unparsed_words(reasons: dict[str, int], accuracy: float, of_parsed: float | None) -> str:
    """Of answers in words that could not be read, by reason."""
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    return (f"answers that could not be read: {sum(reasons.values())} ({why}); they count as not right in "
            f"{100 * accuracy:.1f} %; of those read {100 * (of_parsed or 0):.1f} % are right")


def caveats(summary: Any) -> list[str]:
    """All of these of one protocol's summary, as ``results.json`` has it."""
    overall, found = summary["overall"], []
    if (one := summary["degenerate"]) is not None:
        found.append(degenerate_words(one["letter"], one["share"], one["score_of_always"], overall["accuracy"]))
    if summary.get("unparsed"):
        found.append(unparsed_words(summary["unparsed"], overall["accuracy"], overall["accuracy_of_parsed"]))
    if summary["follows_prompt"] is False:
        found.append(not_followed_words(overall["letter_mass"]))
    return found
