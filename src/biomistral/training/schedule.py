"""Learning rate as a function of the step."""

import math

DECAY_SHARE = 0.2  # of the steps, for wsd (Hu et al. 2024, MiniCPM, use a tenth to a fifth)


def learning_rate(schedule: str, peak: float, step: int, steps: int, warmup: int = 0) -> float:
    """Learning rate of step ``step`` (from 0) of ``steps``: linear warm-up that ends at ``peak``, then ``schedule``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done, left = step - warmup, max(1, steps - warmup)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done / left)))
    if schedule == "linear":
        return peak * max(0.0, 1 - done / left)
    if schedule == "wsd":
        decay = max(1, round(DECAY_SHARE * left))
        return peak * min(1.0, (left - done) / decay)
    assert schedule == "constant", schedule
    return peak
