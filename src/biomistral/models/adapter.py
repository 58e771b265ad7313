"""A LoRA adapter in peft's format on a loaded model: which one it belongs to, and putting it on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from biomistral.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE_FILE = "base.json"
"""Beside peft's two files: ``{"name", "key"}`` of the model an adapter belongs to."""


def read_json(path: Path) -> dict[str, Any]:
    """One of the files of an adapter folder.

    Raises:
        UserError: it is not there, or no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path.parent}: not an adapter folder: it has no {path.name}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: a JSON object was expected")
    return data


def check_base(folder: Path, base_name: str, base_key: str) -> None:
    """Refuse an adapter that was trained on another model than this one, if it says on which.

    Raises:
        UserError: the key this package wrote beside it is another model's.
    """
    if not (folder / BASE_FILE).is_file():
        return
    base = read_json(folder / BASE_FILE)
    if base.get("key") != base_key:
        raise UserError(f"{folder}: an adapter for another base: trained on {base.get('name')} (key "
                        f"{str(base.get('key'))[:12]}), this model is {base_name} (key {base_key[:12]}); give the model it was "
                        "trained on")


def check_adapter(folder: Path) -> None:
    """
    Raises:
        UserError: it is no LoRA adapter, or its weights are missing or pickled.
    """
    kind = read_json(folder / "adapter_config.json").get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder}: peft_type is {kind!r}; only LORA adapters are read")
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{folder}: not an adapter folder: it has no adapter_model.safetensors (pickles are not read)")


def put_on(model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """The model with the adapter beside its weights, in place: nothing is merged, so weights of any form can be under it.

    Raises:
        UserError: the adapter does not fit this model, or is corrupt.
    """
    import peft

    check_adapter(folder)
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: an adapter that does not fit this model ({str(error).splitlines()[0][:200]}); give the "
                        "model it was trained on") from error
    base: PreTrainedModel = adapted.base_model.model
    return base.eval()
