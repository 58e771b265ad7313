"""The charts of the detail pages that the leaderboard has not: drift of a merge, and what memory and time buy."""

from collections.abc import Mapping, Sequence

from biomistral.reporting.charts import Chart, percent
from biomistral.reporting.results import Run
from biomistral.reporting.svg import Axis, Series, draw


def drift_chart(name: str, layers: Mapping[str, Sequence[tuple[int, float]]]) -> Chart:
    """How far each layer of a merged model lies from each parent's: by parent (layer, share of the parent's length)."""
    numbers = sorted({number for values in layers.values() for number, _ in values})
    series = [Series(parent, [(number, 100 * value) for number, value in values], place, radii=[3] * len(values),
                     titles=[f"{parent}, layer {number}: {percent(value, 2)}" for number, value in values])
              for place, (parent, values) in enumerate(layers.items())]
    highest = max(100 * value for values in layers.values() for _, value in values)
    rows = [[str(number), *(percent(dict(values).get(number), 2) for values in layers.values())] for number in numbers]
    described = "Length of the change from each parent as a share of the parent's length, mean over a layer's tensors."
    svg = draw(series, Axis("layer", numbers[0], numbers[-1]), Axis("drift, %", 0, 1.05 * highest or 1))
    return Chart(name, "Drift by layer", described, svg, ["Layer", *layers], rows, series)


def tradeoff_chart(name: str, title: str, cost: str, rows: Sequence[tuple[Run, float]]) -> Chart:
    """Accuracy with its interval against what it costs (and in which unit): memory or time."""
    series = [Series(run.model.name, [(100 * run.summary.overall.accuracy, value)], place, line=False, radii=[5],
                     titles=[f"{run.model.name}: {percent(run.summary.overall.accuracy)}, {value:,.3g} {cost}"],
                     spans=[(100 * run.summary.overall.interval[0], 100 * run.summary.overall.interval[1])])
              for place, (run, value) in enumerate(rows)]
    ends = [end for one in series for span in one.spans for end in span]
    x = Axis("accuracy, %", max(0, min(ends) - 2), min(100, max(ends) + 2))
    svg = draw(series, x, Axis(cost, 0, 1.1 * max(value for _, value in rows)))
    table = [[run.model.name, percent(run.summary.overall.accuracy), f"{value:,.3g}"] for run, value in rows]
    described = "Farther right is more accurate, with the 95 % interval; lower costs less."
    return Chart(name, title, described, svg, ["Model", "Accuracy", cost], table, series)
