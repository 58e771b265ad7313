"""The loops as functions of C: arrays come as pointers with their sizes. ``SIGNATURES`` of `native` says of which kinds."""

from typing import Any

import numpy as np
from numba import carray

from biomistral.merging.blocks import BLOCK
from biomistral.merging.fused import drawing, measures, sums, thinning, vectors


def peaks(rows: Any, number: int, count: int, found: Any) -> int:
    return measures.peaks(rows, count, carray(found, number))


def drift(rows: Any, inputs: int, count: int, first: int, step: int, found: Any, blocks: int, spare: Any) -> int:
    return measures.drift(rows, count, first, step, carray(found, (inputs, blocks, 2)), carray(spare, (2, BLOCK)))


def block_dots(rows: Any, width: int, found: Any, blocks: int, spare: Any) -> int:
    return measures.block_dots(carray(rows[0], width), carray(rows[1], width), carray(found, (blocks, 3)),
                               carray(spare, (3, BLOCK)))


def linear(rows: Any, inputs: int, weights: Any, divisor: float, merged: Any, count: int, peaks: Any,
           spare: Any) -> int:
    return sums.linear(rows, carray(weights, inputs), divisor, carray(merged, count), carray(peaks, inputs + 1),
                       carray(spare, (1, BLOCK)))


def interpolate(rows: Any, by_first: float, by_second: float, merged: Any, count: int, peaks: Any) -> int:
    return sums.interpolate(rows, by_first, by_second, carray(merged, count), carray(peaks, 3))


def histogram(row: Any, base: Any, count: int, above: int, counts: Any, bins: int, spare: Any) -> int:
    return thinning.histogram(carray(row, count), carray(base, count), above, carray(counts, (2, bins)),
                              carray(spare, (1, BLOCK)))


def draw(mask: Any, count: int, key: int, start: int, limit: int, rest: int, spare: Any) -> int:
    space = carray(spare, (2, BLOCK))
    return drawing.draw(carray(mask, count), key, start, limit, rest, space[0, :BLOCK // 4].view(np.uint32),
                        space[1, :BLOCK // 4].view(np.uint8))


def norms(row: Any, base: Any, count: int, threshold: int, ties: Any, mask: Any, masked: int, found: Any, blocks: int,
          spare: Any) -> int:
    return thinning.norms(carray(row, count), carray(base, count), threshold, carray(ties, 1), carray(mask, masked),
                          carray(found, (blocks, 2)), carray(spare, (2, BLOCK)))


def add_task_vectors(rows: Any, models: int, thresholds: Any, ties: Any, masks: Any, masked: Any, scales: Any,
                     weights: Any, consensus: int, divisor: float, scale: float, merged: Any, count: int, peaks: Any,
                     spare: Any) -> int:
    return vectors.add_task_vectors(
        rows, carray(thresholds, models), carray(ties, models), masks, carray(masked, models),
        carray(scales, models), carray(weights, models), consensus, divisor, scale, carray(merged, count),
        carray(peaks, models + 2), carray(spare, (models + 4, BLOCK)))
