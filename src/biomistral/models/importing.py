"""The ``model`` stage: a GGUF file, a folder or a hub model becomes the Hugging Face folder every other stage reads."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from biomistral import assets
from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.models.folder import copy_tokenizer, read_config, weight_files
from biomistral.models.gguf import load_gguf
from biomistral.models.load import load_model, load_tokenizer, num_parameters, quiet
from biomistral.progress import track


def import_model(work: Workspace) -> None:
    """Write the model in ``settings.dtype`` and check that it loads and computes finite numbers.

    Raises:
        UserError: the source is no model, is corrupt, has no tokenizer, or computes NaN.
    """
    source, dtype = work.locate(work.settings.source), getattr(torch, work.settings.dtype)
    if source.is_file():
        quiet()
        model, tokenizer, licence = load_gguf(source, dtype)
        tokenizer.save_pretrained(work.path)
        model.save_pretrained(work.path)
    else:
        licence = None
        _import_folder(source, work.path, dtype)
    _check(work, source)
    known = assets.licence_of(work.settings.source) or licence
    work.licences = {known: 1} if known else {}


def _import_folder(source: Path, out: Path, dtype: torch.dtype) -> None:
    """Copy a model folder; weights of another precision are cast shard by shard, so memory is bounded by one shard."""
    config = read_config(source)
    if "quantization_config" in config:
        raise UserError(f"{source / 'config.json'}: an already quantised model "
                        f"({config['quantization_config'].get('quant_method', 'unknown method')}); import its 16-bit original")
    files = weight_files(source)
    load_tokenizer(source)
    for path in track(files, "importing shards"):
        _copy_shard(path, out / path.name, dtype)
    index = source / "model.safetensors.index.json"
    if index.is_file():
        shutil.copyfile(index, out / index.name)
    copy_tokenizer(source, out)
    config.pop("torch_dtype", None)
    write_json(out / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})


def _copy_shard(source: Path, out: Path, dtype: torch.dtype) -> None:
    with safe_open(source, "pt") as shard:
        tensors = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 (not a dict)
    if all(tensor.dtype == dtype or not tensor.is_floating_point() for tensor in tensors.values()):
        shutil.copyfile(source, out)
        return
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(cast, out, metadata={"format": "pt"})


def _check(work: Workspace, source: Path) -> None:
    """Load what was written and compute once: a model that gives NaN is refused here, not three stages later."""
    tokenizer, model = load_tokenizer(work.path), load_model(work.path)
    ids = tokenizer("The patient was given aspirin.", return_tensors="pt").input_ids
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocabulary:
        raise UserError(f"{source}: its tokenizer has {len(tokenizer)} tokens, its embeddings {vocabulary} rows; "
                        "the tokenizer belongs to another model, or the embeddings were never resized")
    with torch.inference_mode():
        logits = model(ids).logits
    if not torch.isfinite(logits).all():
        raise UserError(f"{source}: computes NaN or infinite logits on plain text; the weights are damaged")
    facts: dict[str, Any] = {"architecture": model.config.model_type, "dtype": work.settings.dtype,
                             "layers": model.config.num_hidden_layers, "vocabulary": vocabulary}
    work.counts, work.facts = {"parameters": num_parameters(model)}, facts
