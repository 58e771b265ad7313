"""Load a model or a tokenizer from a local folder: safetensors only, no remote code, no network."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from biomistral import ranks
from biomistral.errors import UserError
from biomistral.models.folder import TOKENIZER_FILES, read_config, weight_files
from biomistral.models.quantized.layouts import is_known
from biomistral.models.quantized.linear import num_quantized

if TYPE_CHECKING:  # 3 CPU seconds and 150 MB, which an evaluation of a known model does without
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")


def quiet() -> None:
    """Silence transformers' own progress bars and advice: this package reports for itself."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def pick_device(name: str) -> torch.device:
    """``auto`` takes the GPU if there is one.

    Raises:
        UserError: the device named is not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: not a device; use cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu or auto")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on processors that multiply it in hardware; elsewhere it is slower than float32."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(able.get(feature) for feature in _FAST_BFLOAT16) else torch.float32


def own_device(name: str) -> torch.device:
    """The device of this process: with several on a machine, each takes the GPU of its local number.

    Raises:
        UserError: there are more processes here than GPUs; see also `pick_device`.
    """
    device = pick_device(name)
    if device.type != "cuda" or ranks.world() == 1:
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise UserError(f"process {local} of this machine finds only {torch.cuda.device_count()} CUDA devices; start as many "
                        "processes as there are (torchrun --nproc-per-node), or use --device cpu")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder.

    Raises:
        UserError: the folder has none, or its files cannot be read.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder}: a model without a tokenizer: none of {', '.join(TOKENIZER_FILES)} is there; copy the "
                        "tokenizer files of its base model into the folder")
    from transformers import AutoTokenizer

    quiet()
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: its tokenizer cannot be read ({str(error).splitlines()[0]})") from error


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of the tokenizer's JSON (vocabulary, merges, normaliser), without its passing state of padding and truncation.

    Two folders with the same digest give the same ids for the same text: a packed corpus names its tokenizer by it.

    Raises:
        UserError: the tokenizer is not backed by the tokenizers library, so it has no such JSON.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no fast form (tokenizer.json); convert it first")
    data = json.loads(backend.to_str())
    text = json.dumps({**data, "padding": None, "truncation": None}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def load_model(folder: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> "PreTrainedModel":
    """Load a causal language model in evaluation mode, in ``dtype`` (None: as stored).

    Raises:
        UserError: the folder is not a model, or its weights are missing, corrupt or pickled.
    """
    from biomistral.models.bnb_layers import load_bitsandbytes
    from biomistral.models.gguf import load_gguf_folder
    from biomistral.models.quantized.load import load_quantized

    config = read_config(folder)
    quantization = config.get("quantization_config") or {}
    files = [] if quantization.get("quant_method") == "gguf" else weight_files(folder)
    quiet()
    if "architectures" not in config or not config.get("model_type"):
        raise UserError(f"{folder / 'config.json'}: names no architecture ('architectures', 'model_type' expected)")
    if quantization.get("quant_method") == "gguf":
        return load_gguf_folder(folder, quantization, dtype, device).eval()
    if is_known(quantization):
        return load_quantized(folder, files, quantization, dtype, device).eval()
    if quantization.get("quant_method") == "bitsandbytes":
        return load_bitsandbytes(folder, files, quantization, dtype, device).eval()
    from transformers import AutoModelForCausalLM

    try:
        model, read = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype or "auto", local_files_only=True, trust_remote_code=False, use_safetensors=True,
            output_loading_info=True, ignore_mismatched_sizes=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as a causal language model ({str(error).splitlines()[0]})") from error
    for name, found, expected in sorted(read["mismatched_keys"]):
        raise UserError(f"{folder}: tensor '{name}' is {tuple(found)}, the architecture of config.json expects "
                        f"{tuple(expected)}; take both from the same model")
    if missing := sorted(read["missing_keys"]):  # transformers would make them up
        raise UserError(f"{folder}: tensor '{missing[0]}' is in none of its files; the model is incomplete, download or make it "
                        "again")
    return model.to(device).eval()


def num_parameters(model: "PreTrainedModel") -> int:
    """Parameters of the model, tied ones counted once, 4-bit weights as weights."""
    from biomistral.models.bnb_layers import num_halved

    return int(sum(parameter.numel() for parameter in model.parameters())) + num_quantized(model) + num_halved(model)
