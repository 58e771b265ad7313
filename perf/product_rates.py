"""How fast one core multiplies matrices of bfloat16: at best, and the very products of an evaluation."""

import time
from pathlib import Path


def own_rate(folder: Path) -> float:
    """Operations a second of the products that an evaluation makes: all layers' weights one after the other, a chunk of rows."""
    import torch

    from biomistral.scoring.lean.engine import CHUNK
    from biomistral.scoring.lean.known import open_engine

    engine = open_engine(folder / "model", torch.bfloat16, torch.device("cpu"))
    inputs = {width: torch.randn(CHUNK, width).bfloat16() for width in (576, 1536)}
    taken = [(product, inputs[1536 if product is layer.down else 576]) for layer in engine._layers
             for product in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    best = 0.0
    for _ in range(10):
        began = time.perf_counter()
        for product, x in taken:
            product(x)
        operations = sum(2 * CHUNK * x.shape[1] * product.width for product, x in taken)
        best = max(best, operations / (time.perf_counter() - began))
    return best


def product_rate(rows: int, width: int, out: int) -> float:
    """Operations a second of a product of bfloat16 matrices."""
    import torch

    a, b, best = torch.randn(rows, width).bfloat16(), torch.randn(out, width).bfloat16(), 0.0
    for _ in range(40):
        began = time.perf_counter()
        torch.nn.functional.linear(a, b)
        best = max(best, 2 * rows * width * out / (time.perf_counter() - began))
    return best
