"""Low-rank adapters: put on a model, trained as its only weights, saved in peft's format and merged."""

import json
from pathlib import Path

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.models.adapter import BASE_FILE, read_json
from biomistral.seeds import seed
from biomistral.training.settings import LoraSettings


def add_adapter(model: PreTrainedModel, settings: LoraSettings, root: int, base_name: str) -> peft.PeftModel:
    """Freeze ``model`` and put an adapter of zero effect on it; its random half is a function of the seed ``root``.

    Raises:
        UserError: a target names no layer of the model.
    """
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    missing = [target for target in settings.targets if target not in names]
    if missing:
        raise UserError(f"lora.targets: no linear layer is named {missing[0]!r}; this model has {', '.join(sorted(names))}")
    config = peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, bias="none",
                             target_modules=list(settings.targets), task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed(root, "lora"))
        adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.eval()  # as the model was loaded; peft's new layers would drop out
    return adapted


def shape_of(folder: Path, dropout: float) -> LoraSettings:
    """The shape of a saved adapter; ``dropout`` is the training's.

    Raises:
        UserError: no adapter lies there, or it is more than a plain LoRA.
    """
    config = read_json(folder / "adapter_config.json")
    odd = [name for name in ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform",
                             "layer_replication", "target_parameters", "trainable_token_indices") if config.get(name)]
    if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
        why = ", ".join(odd) or ("with biases" if config.get("peft_type") == "LORA" else str(config.get("peft_type")))
        raise UserError(f"{folder}: not a plain LoRA adapter ({why}); only those can be trained further")
    whole = all(isinstance(config.get(name), int) and config[name] > 0 for name in ("r", "lora_alpha"))
    if not whole or not isinstance(config.get("target_modules"), list):
        raise UserError(f"{folder / 'adapter_config.json'}: r, lora_alpha and target_modules (a list of names) were "
                        "expected")
    return LoraSettings(rank=config["r"], alpha=config["lora_alpha"], dropout=dropout, targets=tuple(config["target_modules"]))


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Give the adapter that `add_adapter` put on ``model`` the weights saved in ``folder``.

    Raises:
        UserError: its tensors are not this model's in name or shape: it belongs to another base.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise UserError(f"{folder}: not an adapter folder: it has no {path.name}")
    try:
        saved = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: truncated or corrupt safetensors ({error})") from error
    saved = {name.removeprefix("base_model.model.").replace(".weight", ".default.weight"): tensor
             for name, tensor in saved.items()}
    mine = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name in sorted(saved.keys() ^ mine.keys()):
        where = "the adapter" if name in saved else "this model"
        raise UserError(f"{folder}: an adapter for another base: only {where} has {name}")
    for name, parameter in mine.items():
        if parameter.shape != saved[name].shape:
            raise UserError(f"{folder}: an adapter for another base: {name} is {tuple(saved[name].shape)}, on this model it is "
                            f"{tuple(parameter.shape)}")
        parameter.detach().copy_(saved[name])


def save_and_merge(adapted: peft.PeftModel, masters: dict[str, Tensor], folder: Path, base_key: str) -> PreTrainedModel:
    """Give an adapter its trained float32 weights, save it in ``folder`` and merge it; returns the merged model.

    ``adapted`` is a fresh `add_adapter` on the float32 base, so the merge rounds once, when the result is saved.
    """
    parameters = dict(adapted.get_base_model().named_parameters())
    for name, master in masters.items():
        parameters[name].detach().copy_(master)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty card; this package writes its own
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"].sort()  # peft keeps a set: its order would change from run to run
    write_json(folder / "adapter_config.json", config)
    write_json(folder / BASE_FILE, {"name": config["base_model_name_or_path"], "key": base_key})
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged
