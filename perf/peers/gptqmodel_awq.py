"""gptqmodel on folders in AutoAWQ's layout, on a CPU: every matrix as it multiplies, and logits (an environment of its own).

    VENV/bin/python gptqmodel_awq.py JOBS.json OUT.npz      # jobs: [{"folder", "names", "sequences"}, ...]

Matrices are read off the layers' outputs for the unit vectors, so that no part of gptqmodel is asked how it unpacks. Of job n
they are ``KERNEL.n.NAME`` in OUT, logits of sequence m ``KERNEL.n.m``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel

KERNELS = {"AWQ_TORCH": torch.float16, "AWQ_TORCH_FUSED": torch.float32}
"""Those that run on a CPU, and their dtype: the first unpacks and multiplies, the second packs anew for int4 products."""


def found_by(kernel: str, dtype: torch.dtype, folder: str, names: list[str], sequences: list[list[int]]) -> dict[str, Any]:
    """Matrices (N, K) by name and logits (tokens, vocabulary) by the sequence's place."""
    model = GPTQModel.load(folder, backend=BACKEND[kernel], device="cpu", dtype=dtype).model.eval()
    found = {}
    with torch.inference_mode():
        for place, sequence in enumerate(sequences):
            found[str(place)] = model(input_ids=torch.tensor([sequence])).logits[0].float().numpy()
        for name, layer in model.named_modules():
            if name in names:
                units = torch.eye(layer.in_features, dtype=dtype)
                layer.bias = None
                found[name] = layer(units).float().T.contiguous().numpy()
    return found


def main(jobs: Path, out: Path) -> None:
    arrays = {}
    for number, job in enumerate(json.loads(jobs.read_text(encoding="utf-8"))):
        for kernel, dtype in KERNELS.items():
            found = found_by(kernel, dtype, job["folder"], job["names"], job["sequences"])
            arrays |= {f"{kernel}.{number}.{name}": array for name, array in found.items()}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
