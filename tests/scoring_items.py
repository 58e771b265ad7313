"""Random prompts that begin alike, each with four options, for the tests of scoring."""

import numpy as np

from biomistral.scoring.score import Item


def items(count=9, shared=11, seed=0):
    generator = np.random.default_rng(seed)
    start = generator.integers(3, 400, shared).tolist()
    return [Item(f"q{i}", tuple(start + generator.integers(3, 400, int(generator.integers(2, 40))).tolist()),
                 tuple(tuple(generator.integers(3, 400, int(generator.integers(1, 9))).tolist()) for _ in range(4)))
            for i in range(count)]
