"""Numbers in words: shares in percent, differences in points, p-values, and a board's finding as one sentence."""

from typing import Any

from biomistral.reporting.charts import percent


def points(value: float) -> str:
    """``+2.1``, ``−0.3`` of a difference of fractions: points, with a true minus sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_words(p: float) -> str:
    """``p = 0.03``, ``p < 0.001``."""
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def decimals(value: float | None, digits: int) -> str:
    """A number with so many digits, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def finding_words(board: dict[str, Any]) -> str:
    """A board's finding as one plain sentence."""
    found = board["finding"]
    main = found["main"]
    scope = "" if found["scope"] == "overall" else f"{found['scope']} "
    text = (f"{found['model']} answers {percent(main['accuracy'])} of the {main['n']:,} {scope}questions ({board['protocol']}), "
            f"{found['baseline']} {percent(main['baseline_accuracy'])}: {points(main['difference'])} points "
            f"[{points(main['low'])}, {points(main['high'])}], {p_words(main['p_holm'])}")
    return text.replace("\N{NO-BREAK SPACE}", " ")
