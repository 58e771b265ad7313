"""From a loaded model to a trained one: the group of processes, the plan, the weights, the loop, what is noted of it."""

import torch
from transformers import PreTrainedModel

from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.memory import keep_freed_memory
from biomistral.models.load import own_device
from biomistral.models.stored import StoredWeights
from biomistral.progress import log
from biomistral.ranks import Dismissed
from biomistral.training.compute.attention import use_isolated_attention
from biomistral.training.compute.compiled import compile_model
from biomistral.training.compute.fused import use_fused_norms
from biomistral.training.compute.recompute import use_recomputation
from biomistral.training.data.batch import Blocks
from biomistral.training.foresight.memory import Foreseen
from biomistral.training.foresight.plan import make_plan
from biomistral.training.loop import Training
from biomistral.training.parallel import Group, joined
from biomistral.training.settings import TrainingSettings
from biomistral.training.watching.meter import Meter, peak_memory_bytes
from biomistral.training.watching.validation import Validation
from biomistral.training.weights.masters import MasterWeights, Weights
from biomistral.training.weights.sharded import ShardedWeights, num_shards


def train(work: Workspace, model: PreTrainedModel, stored: StoredWeights | None, blocks: Blocks, heldout: Blocks | None,
          sequence_length: int, foreseen: Foreseen, validation: Validation | None = None) -> Training:
    """Train ``model`` (float32, its weights here or still to be read from ``stored``) in place, with the settings of ``work``;
    fills its counts and facts.

    The caller writes what came of it and then deletes the checkpoints.

    Raises:
        UserError: the model cannot be trained with isolated documents; a loss or gradient is not finite.
        Dismissed: the training is done, and this is not the first of its processes.
    """
    settings = work.settings
    with joined(own_device(work.machine.device)) as group:
        if group.size > 1 and settings.parallel == "none":
            raise UserError(f"parallel: none, but {group.size} processes were started; start one, or set parallel to auto")
        if settings.batch_sequences < group.size:
            raise UserError(f"batch_sequences {settings.batch_sequences} cannot be divided among {group.size} processes; raise "
                            "it, or start fewer")
        use_isolated_attention(model)
        if group.device.type == "cpu":
            keep_freed_memory()
        if settings.compile:
            compile_model(model, settings.gradient_checkpointing)
        elif group.device.type == "cpu":
            use_fused_norms(model)
        use_recomputation(model, settings.gradient_checkpointing)
        num_trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        plan = make_plan(model, settings, blocks, sequence_length, num_trainable,
                         None if foreseen.footprint is None else foreseen.footprint.training)
        meter = Meter(plan.flop / plan.tokens, group.device, getattr(torch, settings.compute_dtype), group.size)
        log.info("%s: %s, %s%s", settings.kind, plan, meter.forecast(plan.flop), f"; {group.size} processes" * (group.size > 1))
        weights = _make_weights(model, stored, settings, foreseen.in_parts, group)
        weights.check()
        training = Training(model, weights, blocks, heldout, settings, plan, meter, work, group, validation)
        if group.leads:
            training.check_space()
        training.run()
        trained_whole = num_trainable == sum(parameter.numel() for parameter in model.parameters())
        training.weights.finish(getattr(torch, settings.output_dtype) if trained_whole else torch.float32)
    if not group.leads:
        raise Dismissed
    _take_notes(work, training)
    return training


def _make_weights(model: PreTrainedModel, stored: StoredWeights | None, settings: TrainingSettings, in_parts: bool,
                  group: Group) -> Weights:
    """Take the model's weights whole into each process, or in parts."""
    dtype = getattr(torch, settings.compute_dtype)
    if in_parts:
        shards = num_shards(settings.parallel, settings.shard_processes, group)
        return ShardedWeights(model, stored, dtype, settings.weight_decay, group, shards)
    return MasterWeights(model, stored, dtype, settings.weight_decay, group, settings.optimizer)


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
    if training.validation is not None:
        work.facts["validation"] = training.validation.facts(metrics.rows, training.exported)
