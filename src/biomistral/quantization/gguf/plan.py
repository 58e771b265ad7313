"""What a GGUF file of a model will hold, known and refused before any tensor is read."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from biomistral.errors import UserError
from biomistral.models import skeleton
from biomistral.models.folder import read_config, weight_files
from biomistral.models.gguf_layout import Architecture, Layout
from biomistral.models.gguf_tokenizer import tokenizer_of
from biomistral.models.load import load_tokenizer
from biomistral.models.stored import StoredWeights
from biomistral.quantization.gguf.blocks import STORAGES, Storage
from biomistral.quantization.gguf.container import Entry
from biomistral.quantization.gguf.metadata import model_fields, remarks, rotated_width
from biomistral.quantization.gguf.modelfile import modelfile, read_generation
from biomistral.quantization.gguf.rope import rope_tensors
from biomistral.quantization.gguf.samples import differences
from biomistral.quantization.gguf.vocabulary import vocabulary_fields

COMPUTED = "rope_parameters"
"""The source of tensors that are no parameters."""
_ROOM = 1 << 24
"""Bytes left for metadata: the largest vocabularies, 256,000 tokens, take 8 million."""


@dataclass
class Plan:
    """The fields and tensors of a file, and what was seen on the way."""

    folder: Path
    architecture: str
    fields: dict[str, Any]
    entries: list[Entry]
    dtype: torch.dtype
    """Of the weights that are read."""
    modelfile: str
    remarks: list[str]
    """Where llama.cpp will differ from transformers."""


def make_plan(folder: Path, kind: str, out: Path, licence: str | None) -> Plan:
    """Plan the file of type ``kind`` (a name of `STORAGES`).

    Raises:
        UserError: the model is quantised already, its architecture or tokenizer cannot be said in GGUF, a tensor is missing or
            of another shape, or the disk has no room.
    """
    raw = read_config(folder)
    if "quantization_config" in raw:
        raise UserError(f"{folder / 'config.json'}: already quantised "
                        f"({raw['quantization_config'].get('quant_method', 'unknown')}); give the 16-bit model")
    files = weight_files(folder)
    model = skeleton.outline(folder, torch.float32)
    config = model.config
    layout = Layout(config, folder)
    arch = layout.architecture
    tokenizer = load_tokenizer(folder)
    fields = {**_general(kind, _name(arch, tokenizer.get_vocab()), model, licence), **model_fields(config, arch, folder)}
    vocabulary = vocabulary_fields(tokenizer, model.get_input_embeddings().weight.shape[0], folder)
    unlike = differences(tokenizer, tokenizer_of(vocabulary, str(folder)), folder)
    weights = skeleton.Weights(files)
    stored = StoredWeights(folder, model, weights)
    entries = [*_extra(config), *_entries(model, layout, stored, STORAGES[kind])]
    _check_room(out, sum(entry.num_bytes for entry in entries) + _ROOM)
    notes = [*remarks(config, arch), *(f"{name} may be cut into other tokens by llama.cpp" for name in unlike)]
    words = modelfile(file_name(kind), tokenizer, read_generation(folder), vocabulary["tokenizer.ggml.add_bos_token"], licence)
    return Plan(folder, arch.name, {**fields, **vocabulary}, entries, weights.dtype(next(iter(weights.place))), words, notes)


def file_name(kind: str) -> str:
    """The name of the file of a type: never of the model's folder, since the same model gives the same bytes anywhere."""
    return f"model-{kind}.gguf"


def _general(kind: str, name: str, model: torch.nn.Module, licence: str | None) -> dict[str, Any]:
    """What the file says of itself."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    number = {"F32": "ALL_F32"}.get(kind, f"MOSTLY_{kind}")
    return {"general.type": "model", "general.name": name, "general.size_label": _short(parameters),
            **({"general.license": licence} if licence else {}), "general.file_type": int(gguf.LlamaFileType[number]),
            "general.quantization_version": gguf.GGML_QUANT_VERSION}


def _name(architecture: Architecture, tokens: dict[str, int]) -> str:
    """The file's name for the model, which two readers take for more: a Llama named "mistral" transformers cannot read, and by
    "phi3" llama.cpp strips spaces after special tokens, among them some that Phi-4's vocabulary has not, where it then fails.
    """
    if architecture.name == "phi3" and not all(token in tokens for token in ("<unk>", "<s>", "</s>", "<|endoftext|>")):
        return "phi"
    return architecture.name


def _short(number: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number / 1000:.0f}K"


def _extra(config: Any) -> list[Entry]:
    """Tensors that transformers computes from the configuration."""
    return [Entry(COMPUTED, name, tuple(tensor.shape), STORAGES["F32"], partial(Tensor.float, tensor))
            for name, tensor in rope_tensors(config, rotated_width(config)).items()]


def _entries(model: torch.nn.Module, layout: Layout, stored: StoredWeights, storage: Storage) -> list[Entry]:
    """Every parameter, tied ones once: matrices in the type asked for, or float16 where its blocks do not divide their rows."""
    return [Entry(name, layout.name(name), tuple(parameter.shape), _storage_of(tuple(parameter.shape), storage),
                  partial(_read, name, layout, stored)) for name, parameter in model.named_parameters()]


def _storage_of(shape: tuple[int, ...], storage: Storage) -> Storage:
    if len(shape) < 2:  # norms and biases: llama.cpp computes with them in float32
        return STORAGES["F32"]
    return storage if storage.fits(shape) else STORAGES["F16"]


def _read(name: str, layout: Layout, stored: StoredWeights) -> Tensor:
    return layout.to_gguf(name, stored.read(name))


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise UserError(f"{out.parent}: the file needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; free some or choose "
                        "another --out")
