"""Three close models to merge, and merging them through the front door, for the tests of the methods."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from biomistral.merging.settings import MergeSettings
from biomistral.run import execute
from tiny import make_model

Weights = dict[str, torch.Tensor]
Arrays = dict[str, dict[str, np.ndarray]]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
TWO = "models: [{model: B, parameters: {weight: 1}}, {model: C, parameters: {weight: 3}}]\n"
STOCK = "models: [{model: A}, {model: B}, {model: C}]\nbase_model: A\n"
TIES = """merge_method: ties
models:
  - model: A
  - model: B
    parameters: {weight: 0.5, density: 0.5}
base_model: A
"""


def make_models(root: Path) -> dict[str, Path]:
    """A base and two that moved from it, in float32; rows of 48 and 96 elements divide no block of 4,096."""
    folders = {name: make_model(root / name, hidden=48) for name in "ABC"}
    base = load_file(folders["A"] / "model.safetensors")
    for number, name in enumerate("BC", 1):
        generator = torch.Generator().manual_seed(number)
        moved = {key: tensor + 0.02 * torch.randn(tensor.shape, generator=generator) for key, tensor in base.items()}
        save_file(moved, folders[name] / "model.safetensors", metadata={"format": "pt"})
    return folders


def make_pair(root: Path) -> dict[str, Path]:
    """Two models of four layers in bfloat16."""
    return {name: make_model(root / name, seed, layers=4, hidden=16, dtype="bfloat16") for seed, name in enumerate("AB")}


def arrays_of(models: dict[str, Path]) -> Arrays:
    """Every model's weights in float64."""
    return {name: {key: tensor.double().numpy() for key, tensor in load_file(folder / "model.safetensors").items()}
            for name, folder in models.items()}


def merged(folder: Path, text: str, models: dict[str, Path], **options: Any) -> Weights:
    """The weights that a merge file gives; models that it does not name are left out."""
    path = folder / "merge.yaml"
    path.write_text(text)
    used = {name: str(place) for name, place in models.items() if f"model: {name}" in text}
    made = execute(MergeSettings(config=str(path), models=used, **options), folder / "out")
    return load_file(made.path / "model.safetensors")


def check(found: Weights, wanted: Callable[[str], np.ndarray], rtol: float = 2e-5, atol: float = 2e-7) -> None:
    """Every tensor equals the reference's, but for float32's roundings."""
    for name, tensor in found.items():
        assert np.allclose(tensor.double().numpy(), wanted(name), rtol=rtol, atol=atol), name
