"""Read a GGUF file as a transformers model and tokenizer, both exactly as the file describes them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.models import skeleton
from biomistral.models.folder import read_config
from biomistral.models.gguf_config import FACTORS, LONG, SHORT, config_of, is_known
from biomistral.models.gguf_file import GGUFFile
from biomistral.models.gguf_layout import Layout
from biomistral.models.gguf_tokenizer import tokenizer_of

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | None]:
    """Load weights (dequantised), tokenizer and licence of a GGUF file that stands alone, by what it says of itself.

    Raises:
        UserError: the file is corrupt or incomplete, of an architecture that cannot be read, or has no known tokenizer.
    """
    file = GGUFFile(path)
    tokenizer = tokenizer_of(file.fields, str(path))
    licence = file.fields.get("general.license")
    if not is_known(file):
        return _by_transformers(file, dtype), tokenizer, licence
    config = config_of(file)
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config, dtype=dtype)
    _check_complete(file, Layout(config, path), outline)
    return _filled(file, outline, dtype), tokenizer, licence


def _by_transformers(file: GGUFFile, dtype: torch.dtype) -> PreTrainedModel:
    """By transformers' reader, which takes no notice of scaled rotary embeddings: files that have them are refused."""
    path, arch = file.path, file.fields.get("general.architecture")
    scaled = file.fields.get(f"{arch}.rope.scaling.type", "none") != "none" or FACTORS in file.tensors
    try:
        if scaled:
            raise ValueError("its rotary embeddings are scaled")
        model, read = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=dtype,
                                                           local_files_only=True, output_loading_info=True)
        if missing := sorted(read["missing_keys"]):  # transformers would make them up
            raise ValueError(f"it holds nothing for '{missing[0]}'")
    except (KeyError, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: GGUF of architecture '{arch}' cannot be read ({str(error).splitlines()[0]})") from error
    return _unmark(model)


def _check_complete(file: GGUFFile, layout: Layout, outline: PreTrainedModel) -> None:
    """Refuse tensors that the model would not compute with."""
    names = {layout.name(name) for name, _ in outline.named_parameters()} | {FACTORS, LONG, SHORT}
    for name in file.tensors:
        if name not in names:
            raise UserError(f"{file.path}: tensor '{name}' has no place in architecture '{layout.architecture.name}' as it is "
                            "known here; import the model's Hugging Face folder instead")


def config_entry(file: str) -> dict[str, Any]:
    """``quantization_config`` of a folder whose weights lie in a GGUF file."""
    return {"quant_method": "gguf", "file": file}


def load_gguf_folder(folder: Path, entry: dict[str, Any], dtype: torch.dtype | None,
                     device: torch.device | str) -> PreTrainedModel:
    """Load the model of a ``config.json`` whose weights lie in a GGUF file beside it; ``dtype`` None is what config.json says.

    Raises:
        UserError: the file is missing, corrupt or incomplete, or holds a tensor of another shape than the architecture's.
    """
    named = str(entry.get("file"))
    path = folder / named
    if path.name != named or not path.is_file():
        raise UserError(f"{folder / 'config.json'}: quantization_config.file is {named!r}, which is no file of the folder; make "
                        "the model again")
    stored = _DTYPES.get(str(read_config(folder).get("dtype")), torch.float32)
    return _filled(GGUFFile(path), skeleton.outline(folder, stored), dtype or stored).to(device)


def _filled(file: GGUFFile, outline: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model of an outline with the file's weights."""
    config = outline.config
    layout = Layout(config, file.path)
    state = {name: _read(file, layout, name, parameter).to(dtype) for name, parameter in outline.named_parameters()}
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return getattr(transformers, type(outline).__name__).from_pretrained(None, config=config, state_dict=state, dtype=dtype)


def _read(file: GGUFFile, layout: Layout, name: str, parameter: Tensor) -> Tensor:
    tensor = file.read(layout.name(name))
    if tensor.shape != parameter.shape:
        raise UserError(f"{file.path}: tensor '{layout.name(name)}' is {tuple(tensor.shape)}, the architecture expects "
                        f"{tuple(parameter.shape)}; take both from the same model")
    return layout.from_gguf(name, tensor)


def _unmark(model: PreTrainedModel) -> PreTrainedModel:
    """Drop what marks the model as quantised: its weights no longer are, and transformers would refuse to save it."""
    model.hf_quantizer = None
    model.is_quantized = False
    for name in ("quantization_method", "_hf_quantizer"):
        if name in model.__dict__:
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = ""
    return model
