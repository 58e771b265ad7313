"""Whether a training fits the memory there is, decided before a weight is read; if not, what would make it fit."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from biomistral import ranks
from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.limits import available_memory_bytes
from biomistral.models.load import own_device
from biomistral.progress import log
from biomistral.training.foresight.footprint import Footprint, UnforeseeableError, footprint, skeleton
from biomistral.training.settings import LoraSettings, TrainingSettings

_SPARE = {"cuda": 0.95, "cpu": 0.9}
"""Of what is free, how much may be taken: the rest is the estimate's own error, and on a host what others take meanwhile."""

_ADVICE = 3  # changes of the settings that a refusal names
_WORTH = 0.95  # of what the one before needs, for another to be named


@dataclass(frozen=True)
class Foreseen:
    """What each process will need, None where nobody knows, and whether its weights are to be held in parts."""

    footprint: Footprint | None
    in_parts: bool


def _shards(settings: TrainingSettings, processes: int) -> int:
    """Into how many parts the settings cut the weights."""
    if settings.parallel == "hsdp" and processes > 1:
        return settings.shard_processes or int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    return processes if settings.parallel == "fsdp" else 1


def _room(device: torch.device) -> int:
    """Bytes this process may still take of a GPU, or of the host, which it shares with the machine's other processes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory_bytes() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _fits_whole(found: Footprint, device: torch.device) -> bool:
    """Whether each GPU has memory for the whole of the weights, however much others now take: all processes must agree."""
    if device.type != "cuda":
        return True
    return found.training <= _SPARE["cuda"] * int(torch.cuda.get_device_properties(device).total_memory)


def _changes(settings: TrainingSettings, sequence_length: int) -> list[dict[str, Any]]:
    """Settings that need less, the mildest first; the last ones are several at once."""
    smaller: dict[str, Any] = {}
    if settings.micro_batch_tokens >= 2 * sequence_length:
        smaller["micro_batch_tokens"] = sequence_length
    selective, full = ({"gradient_checkpointing": how} for how in ("selective", "full"))
    eight = {"optimizer": "adamw8bit"}
    found = [smaller, selective, full, smaller | full, eight, smaller | full | eight]
    method = getattr(settings, "method", None)
    if method == "full":
        found += [{"method": "lora"}, {"method": "lora"} | smaller | full]
    if method in ("full", "lora"):
        found.append({"method": "qlora"} | smaller | full)
    held = [{name: value for name, value in change.items() if getattr(settings, name) != value} for change in found]
    return [change for number, change in enumerate(held) if change and change not in held[:number]]


def _advice(work: Workspace, model: PreTrainedModel, shape: LoraSettings | None, sequence_length: int, device: str, room: int,
            shards: int) -> str:
    """What changes of the settings would need: the first three that fit, or the one that needs least."""
    fitting: list[tuple[int, str]] = []
    others: list[tuple[int, str]] = []
    for change in _changes(work.settings, sequence_length):
        settings = work.settings.model_copy(update=change)
        adapter = shape or (settings.lora if getattr(settings, "method", "full") != "full" else None)
        need = footprint(model, settings, adapter, sequence_length, device, ranks.world(), shards).needed_on(device, device)
        words = ", ".join(f"{name}: {value}" for name, value in change.items()) + f" needs {need / 1e9:.1f} GB"
        if not fitting or need < _WORTH * fitting[-1][0]:
            (fitting if need <= _SPARE[device] * room else others).append((need, words))
        if len(fitting) == _ADVICE:
            break
    return "; ".join(words for _, words in fitting or sorted(others)[:1]) or "take a machine with more"


def foresee(work: Workspace, folder: Path, sequence_length: int, shape: LoraSettings | None = None) -> Foreseen:
    """Foresee what training the model in ``folder`` needs; ``shape`` is the adapter's (None: every weight is trained).

    Weights are held in parts if the settings say so, or with ``parallel: auto`` if several GPUs have no room for them whole.

    Raises:
        UserError: it does not fit, and the machine's ``ignore_memory`` is not set.
    """
    settings, device, processes = work.settings, own_device(work.machine.device), ranks.world()
    shards = _shards(settings, processes)
    divisible = getattr(settings, "method", "full") != "qlora" and settings.optimizer == "adamw"
    try:
        model = skeleton(folder, settings)
        found = footprint(model, settings, shape, sequence_length, device.type, processes, shards)
        if processes > 1 and settings.parallel == "auto" and divisible and not _fits_whole(found, device):
            shards = processes
            found = footprint(model, settings, shape, sequence_length, device.type, processes, shards)
    except UnforeseeableError as error:
        log.warning("%s: the memory needed cannot be foreseen: %s", settings.kind, error)
        return Foreseen(None, shards > 1)
    for where in {device.type: device, "cpu": torch.device("cpu")}.values():
        room, need = _room(where), found.needed_on(where.type, device.type)
        if need > _SPARE[where.type] * room and not work.machine.ignore_memory:
            advice = _advice(work, model, shape, sequence_length, device.type, room, shards) if where == device else (
                "take a machine with more")
            raise UserError(f"{folder}: {settings.kind} needs about {need / 1e9:.1f} GB in each process, {where} has "
                            f"{room / 1e9:.1f} GB free, of which {_SPARE[where.type]:.0%} may be taken; {advice}; or try it with "
                            "--ignore-memory")
    return Foreseen(found, shards > 1)
