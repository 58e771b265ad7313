"""What the tests of merging start from: pico models close to one another, and merge files over them."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from biomistral.merging.settings import MergeSettings
from tiny import make_model

Weights = dict[str, torch.Tensor]
TASKS = """merge_method: %s
models:
  - model: A
  - {model: B, parameters: {weight: 0.5, density: 0.4}}
  - {model: C, parameters: {weight: 0.3, density: 0.7}}
base_model: A
"""
FILES = {
    "linear": "merge_method: linear\nmodels: [{model: A, parameters: {weight: 1}}, {model: B, parameters: {weight: [0, 2]}}]\n",
    "slerp": "merge_method: slerp\nmodels: [{model: A}, {model: B}]\nbase_model: A\nparameters: {t: [0.2, 0.8]}\n",
    "task_arithmetic": (TASKS % "task_arithmetic").replace(", density: 0.4", "").replace(", density: 0.7", ""),
    "ties": TASKS % "ties",
    "ties_rescaled": TASKS % "ties" + "parameters: {rescale: true, lambda: 1.5}\n",
    "dare_ties": TASKS % "dare_ties",
    "dare_linear": TASKS % "dare_linear",
    "passthrough": "merge_method: passthrough\nmodels: [{model: B, parameters: {scale: 0.5}}]\n",
}


def make_models(root: Path) -> dict[str, Path]:
    """A base and two models close to it, in bfloat16; the embedding has 25,600 elements: more than one chunk of 4,096."""
    base = make_model(root / "A", dtype="bfloat16")
    folders = {"A": base}
    for number, name in enumerate("BC", 1):
        folders[name] = make_model(root / name, dtype="bfloat16")
        save_moved(base, folders[name], number)
    return folders


def save_moved(base: Path, folder: Path, number: int, scale: float = 0.02) -> None:
    generator = torch.Generator().manual_seed(number)
    moved = {name: (tensor.float() + scale * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
             for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})


def settings(folder: Path, text: str, models: dict[str, Path], **options: Any) -> MergeSettings:
    path = folder / "merge.yaml"
    path.write_text(text)
    used = {name: str(place) for name, place in models.items() if f"model: {name}" in text}
    return MergeSettings(config=str(path), models=used, **options)


def weights(folder: Path) -> Weights:
    found: Weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found
