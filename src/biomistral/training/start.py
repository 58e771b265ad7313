"""From a loaded model to a trained one: the group of processes, the plan, the weights, the loop, what is noted of it."""

import torch
from transformers import PreTrainedModel

from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.memory import keep_freed_memory
from biomistral.progress import log
from biomistral.ranks import Dismissed
from biomistral.training.attention import use_isolated_attention
from biomistral.training.batch import Blocks, check_model
from biomistral.training.fused import use_fused_norms
from biomistral.training.loop import Training
from biomistral.training.meter import Meter, peak_memory_bytes
from biomistral.training.parallel import Group, joined, own_device
from biomistral.training.plan import Plan, make_plan
from biomistral.training.settings import TrainingSettings
from biomistral.training.sharded import ShardedWeights
from biomistral.training.weights import MasterWeights, Weights

_SPARE = 0.9  # of a GPU's memory, for what a plan may need: the rest is fragmentation and the libraries' own


def train(work: Workspace, model: PreTrainedModel, blocks: Blocks, heldout: Blocks | None, sequence_length: int) -> Training:
    """Train ``model`` (loaded in float32) in place, with the settings of ``work``; fills its counts and facts.

    The caller writes what came of it and then deletes the checkpoints.

    Raises:
        UserError: the model cannot be trained with isolated documents; a loss or gradient is not finite.
        Dismissed: the training is done, and this is not the first of its processes.
    """
    settings = work.settings
    with joined(own_device(work.machine.device)) as group:
        if group.size > 1 and settings.parallel == "none":
            raise UserError(f"parallel: none, but {group.size} processes were started; start one, or set parallel to auto")
        use_isolated_attention(model)
        if group.device.type == "cpu":
            use_fused_norms(model)
            keep_freed_memory()
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        num_trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        plan = make_plan(model, settings, blocks, sequence_length, num_trainable)
        meter = Meter(plan.flop / plan.tokens, group.device, getattr(torch, settings.compute_dtype), group.size)
        log.info("%s: %s, %s%s", settings.kind, plan, meter.forecast(plan.flop), f"; {group.size} processes" * (group.size > 1))
        weights = _make_weights(model, settings, plan, group)
        training = Training(model, weights, blocks, heldout, settings, plan, meter, work, group)
        if group.leads:
            training.check_space()
        training.run()
        training.weights.finish()
    if not group.leads:
        raise Dismissed
    _take_notes(work, training)
    return training


def _make_weights(model: PreTrainedModel, settings: TrainingSettings, plan: Plan, group: Group) -> Weights:
    """Check the model, and take its weights whole into each process or in parts, as the settings say or the plan needs."""
    dtype = getattr(torch, settings.compute_dtype)
    divisible = all(parameter.is_floating_point() for parameter in model.parameters())  # quantised weights are not
    too_large = settings.parallel == "auto" and divisible and not _fits(plan, group.device)
    if group.size > 1 and (settings.parallel == "fsdp" or too_large):
        if not all(parameter.is_floating_point() for parameter in model.parameters()):
            raise UserError(f"{settings.kind}: a quantised model cannot be held in parts; set parallel to data")
        check_model(model, model.device)
        return ShardedWeights(model, dtype, settings.weight_decay, group)
    for parameter in model.parameters():  # before they go to the GPU: a frozen 7B is 29 GB in float32, 14.5 in bfloat16
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    model.to(group.device)
    weights = MasterWeights(model, dtype, settings.weight_decay, group)
    check_model(model, group.device)
    return weights


def _fits(plan: Plan, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    return plan.memory_bytes <= _SPARE * int(torch.cuda.get_device_properties(device).total_memory)


def _take_notes(work: Workspace, training: Training) -> None:
    metrics, plan, ending = training.metrics, training.plan, training.ending
    tokens, seconds = int(metrics.total("tokens")), metrics.total("seconds")
    sequences = min(plan.sequences, training.steps * training.settings.batch_sequences)
    work.counts |= {"steps": training.steps, "tokens": tokens, "sequences": sequences,
                    "trainable_parameters": training.weights.num_trainable}
    losses = [row["loss"] for row in metrics.rows if "loss" in row]
    work.facts |= {"first_loss": losses[0], "final_loss": losses[-1], "tokens_per_second": tokens / seconds,
                   "training_seconds": seconds, "flop": plan.flop * sequences / plan.sequences,
                   "planned_memory_bytes": plan.memory_bytes, "peak_memory_bytes": peak_memory_bytes(training.group.device),
                   "processes": training.group.size, "parallel": training.weights.kind}
    if ending is not None:
        work.facts["max_hours"] = {"decided_after_step": ending.start, "planned_steps": plan.steps}
    if heldout := metrics.heldout():
        for name in ("heldout_loss", "heldout_bits_per_byte"):
            work.facts |= {f"{name}_before": heldout[0][name], f"{name}_after": heldout[-1][name]}
