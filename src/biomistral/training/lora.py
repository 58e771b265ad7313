"""Low-rank adapters: put on a model, trained as its only weights, saved in peft's format and merged."""

import json
from pathlib import Path

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.seeds import seed
from biomistral.training.settings import LoraSettings


def add_adapter(model: PreTrainedModel, settings: LoraSettings, root: int, base_name: str) -> peft.PeftModel:
    """Freeze ``model`` and put an adapter of zero effect on it; its random half is a function of the seed ``root``.

    Raises:
        UserError: a target names no layer of the model.
    """
    layers = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    missing = [target for target in settings.targets if target not in layers]
    if missing:
        raise UserError(f"lora.targets: no linear layer is named {missing[0]!r}; this model has {', '.join(sorted(layers))}")
    config = peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, bias="none",
                             target_modules=list(settings.targets), task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed(root, "lora"))
        adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def save_and_merge(adapted: peft.PeftModel, masters: dict[str, Tensor], folder: Path) -> PreTrainedModel:
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
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged
