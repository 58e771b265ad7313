"""The charts of the detail pages that the leaderboard has not: drift of a merge, and what memory and time buy."""

from collections.abc import Mapping, Sequence

from biomistral.reporting.charts import Chart, percent
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
