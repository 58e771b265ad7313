"""Compiled sums of task vectors: thin, weigh, elect, add, normalise and add the base, tile by tile, as in `methods`."""

from typing import Any

import numpy as np
from numba import carray

from biomistral.loops.steps import bits, compiled, rounded, stored, value
from biomistral.merging.fused.measures import add, copy, raise_to_peak
from biomistral.merging.fused.sums import TILE
from biomistral.merging.fused.thinning import weigh


@compiled
def add_task_vectors(rows: Any, thresholds: Any, ties: Any, masks: Any, masked: Any, scales: Any, weights: Any, consensus: int,
                     divisor: Any, scale: Any, merged: Any, peaks: Any, spare: Any) -> int:
    """Thin the task vectors, scale and weigh them, and `methods.add_task_vectors`; returns how many elements had a conflict.

    Rows after the first, the base, have one entry each in the other arrays; a model has a mask for all elements or, as ``masked``
    says, for none; ``peaks`` of the result and the rows are raised. ``divisor`` 0 divides by the weights of those that stayed.
    """
    models, conflicts = len(weights), 0
    for start in range(0, len(merged), TILE):
        end = min(start + TILE, len(merged))
        size, base = end - start, carray(rows[0], end)[start:]
        total, kept, share, lost = (spare[models, :size], spare[models + 1, :size], spare[models + 2, :size],
                                    spare[models + 3, :size])
        for i in range(models):
            mask, row = carray(masks[i], min(end, masked[i]))[start:], carray(rows[1 + i], end)[start:]
            vector = spare[i, :size] if consensus or i else total  # the first is not added to 0, which would make -0 positive
            weigh(vector, row, base, thresholds[i], ties[i:i + 1], mask, scales[i], weights[i])
            raise_to_peak(peaks, 2 + i, row)
            if i:
                add(total, vector)
            elif consensus:
                copy(total, vector)
        if consensus:
            for i in range(models):
                _keep_elected(spare[i, :size], total, weights[i], i == 0, kept, share, lost)
            conflicts += _count_nonzero(lost)
            total = kept
        if divisor == 0:
            _finish_shared(total, share, scale, base, merged[start:end])
        else:
            _finish(total, divisor, scale, base, merged[start:end])
        raise_to_peak(peaks, 0, merged[start:end])
        raise_to_peak(peaks, 1, base)
    return conflicts


@compiled
def _keep_elected(vector: Any, total: Any, weight: Any, first: Any, kept: Any, share: Any, lost: Any) -> None:
    """`kernels.keep_majority` and `kernels.shared_weights` for one of the vectors: ``kept`` adds up what has the sign of the
    total, ``share`` its weight where that is not 0; ``lost`` is not 0 where an entry of any vector lost."""
    none = np.float32(0)
    for j in range(len(vector)):
        loses = bits(vector[j]) ^ bits(total[j]) < 0
        stays = none if loses else vector[j]
        kept[j] = stays if first else kept[j] + stays
        share[j] = (none if first else share[j]) + (weight if stays != 0 else none)
        lost[j] = vector[j] if loses and vector[j] != 0 else none if first else lost[j]


@compiled
def _count_nonzero(values: Any) -> int:
    count = np.int32(0)
    for j in range(len(values)):
        count = np.int32(count + (values[j] != 0))
    return int(count)


@compiled
def _finish(total: Any, divisor: Any, scale: Any, base: Any, merged: Any) -> None:
    for j in range(len(total)):
        mixed = rounded(total[j], base[j])
        if divisor != 1:
            mixed = rounded(mixed / divisor, base[j])
        if scale != 1:
            mixed = rounded(mixed * scale, base[j])
        merged[j] = stored(rounded(mixed + value(base[j]), base[j]), base[j])


@compiled
def _finish_shared(total: Any, share: Any, scale: Any, base: Any, merged: Any) -> None:
    for j in range(len(total)):
        divisor = rounded(share[j], base[j])
        mixed = rounded(rounded(total[j], base[j]) / (divisor if divisor != 0 else np.float32(1)), base[j])
        if scale != 1:
            mixed = rounded(mixed * scale, base[j])
        merged[j] = stored(rounded(mixed + value(base[j]), base[j]), base[j])
