"""A model folder as files: config, weights, tokenizer. Nothing here imports a library that builds models (2 CPU seconds)."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from biomistral.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                      "chat_template.jinja", "chat_template.json", "generation_config.json")
MODEL_PATTERNS = ("config.json", "adapter_config.json", "*.safetensors", "*.safetensors.index.json", "*.gguf")


def read_config(folder: Path) -> dict[str, Any]:
    """The model's ``config.json``.

    Raises:
        UserError: the folder is not a model folder.
    """
    path = folder / "config.json"
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise UserError(f"{folder}: not a model folder: it has no config.json" + (
            "; it is an adapter: name the model it was trained on, and evaluate with --adapter" if adapter else ""))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: a JSON object was expected")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, each opened once to see that its header can be read.

    Raises:
        UserError: there are none, one is missing, truncated or corrupt, or there are only pickles.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise UserError(f"{index}: not a readable weight index ({error})") from error
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise UserError(f"{folder}: no weights that can be read: {_instead(folder)}")
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{index}: weight file {name!r} is not in the folder itself; refused")
        try:
            with safe_open(folder / name, "np"):
                pass
        except FileNotFoundError as error:
            raise UserError(f"{folder / name}: missing, though {index.name} names it; download it again") from error
        except SafetensorError as error:
            raise UserError(f"{folder / name}: truncated or corrupt safetensors ({error}); download or make it again") from error
    return [folder / name for name in names]


def _instead(folder: Path) -> str:
    """What is there instead of safetensors."""
    for pattern in ("*.bin", "*.pt"):
        for path in sorted(folder.glob(pattern)):
            return f"it has only pickles ({path.name}), which can run code; convert them to safetensors first"
    for path in sorted(folder.glob("*.gguf")):
        return f"it has only a GGUF file ({path.name}), made of a 16-bit model: give that, or import the file first"
    return "it has no *.safetensors file"


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy tokenizer, chat template and generation settings from one model folder to another, byte for byte."""
    for pattern in TOKENIZER_PATTERNS:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, out / path.name)
