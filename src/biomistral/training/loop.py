"""The training loop: each step is a function of the state and of the step's number, so a resumed run is the same run."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.models.load import pick_device
from biomistral.progress import bar, log
from biomistral.seeds import seed
from biomistral.training.attention import use_isolated_attention
from biomistral.training.batch import Block, Blocks, batch_loss, check_model, collate, micro_batches
from biomistral.training.checkpoint import Checkpoints
from biomistral.training.interrupt import held_back
from biomistral.training.metrics import MetricsLog, heldout_loss, peak_memory_bytes
from biomistral.training.order import indices_of_step
from biomistral.training.plan import Plan, make_plan
from biomistral.training.schedule import learning_rate
from biomistral.training.settings import TrainingSettings
from biomistral.training.weights import MasterWeights

CHECKPOINTS = "checkpoints"


def _documents(blocks: list[Block]) -> str:
    """The documents of a batch, for a message: the first five and how many more."""
    names = list(dict.fromkeys(name for block in blocks for name in block.documents))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@dataclass
class Training:
    """A model, its master weights and its data; `run` trains to the end of the plan."""

    model: PreTrainedModel
    weights: MasterWeights
    blocks: Blocks
    heldout: Blocks | None
    settings: TrainingSettings
    plan: Plan
    folder: Path
    checkpoints: Checkpoints = field(init=False)
    metrics: MetricsLog = field(init=False)

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS)

    def run(self) -> None:
        """Resume from the last sound checkpoint, or start, and train to the end.

        Raises:
            KeyboardInterrupt: interrupted; a checkpoint of the last whole step has been kept.
        """
        done = self._restore()
        self.metrics = MetricsLog(self.folder / "metrics.jsonl", done)
        if done == 0:
            self._evaluate(0)
        self.model.train()
        saved_at = time.monotonic()
        with bar(self.settings.kind, self.plan.steps) as progress, held_back() as interrupted:
            progress.advance(done)
            for step in range(done, self.plan.steps):
                row = self._step(step)
                self.metrics.add(row)
                self._evaluate_if_due(step + 1)
                progress.advance()
                progress.say(f"loss {row['loss']:.3f}, {row['tokens_per_second']:.0f} tokens/s")
                if interrupted() or self._checkpoint_due(step + 1, saved_at):
                    self.checkpoints.save(step + 1, self.weights.state())
                    saved_at = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt

    def _restore(self) -> int:
        found = self.checkpoints.load()
        if found is None:
            return 0
        step, tensors = found
        self.weights.restore(tensors, step)
        log.info("resuming after step %d of %d", step, self.plan.steps)
        return step

    def batch(self, step: int) -> list[Block]:
        """The blocks of a step: a function of the seed and of the step's number alone."""
        indices = indices_of_step(self.settings.seed, len(self.blocks), self.plan.sequences, self.settings.batch_sequences, step)
        return [self.blocks[index] for index in indices]

    def _gradient(self, batch: list[Block], step: int) -> float:
        """Add up the gradient of the step's micro-batches; returns the step's loss."""
        num_predicted = max(1, sum(block.num_predicted for block in batch))
        device, total = self.model.device, 0.0
        for number, group in enumerate(micro_batches(batch, self.settings.micro_batch_tokens)):
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed(self.settings.seed, "dropout", step, number))
                loss = batch_loss(self.model, collate(group, device), num_predicted)
                if not torch.isfinite(loss):
                    return math.nan
                loss.backward()
            total += loss.item()
        return total

    def _step(self, step: int) -> dict[str, float]:
        """One optimiser step, ``step`` counted from 0; the row it adds to the log is numbered from 1."""
        started, batch, settings = time.perf_counter(), self.batch(step), self.settings
        loss = self._gradient(batch, step)
        norm = self.weights.gradient_norm(settings.clip_norm) if math.isfinite(loss) else math.nan
        if not math.isfinite(norm):
            what = "gradient" if math.isfinite(loss) else "loss"
            raise UserError(f"{settings.kind}: the {what} of step {step + 1} is not a finite number; nothing of that step was "
                            f"kept; lower learning_rate ({settings.learning_rate}), add warmup_steps, or look at its "
                            f"documents: {_documents(batch)}")
        rate = learning_rate(settings.schedule, settings.learning_rate, step, self.plan.steps, settings.warmup_steps)
        self.weights.update(rate)
        tokens, seconds = sum(len(block.tokens) for block in batch), time.perf_counter() - started
        return {"step": step + 1, "loss": loss, "tokens": tokens, "learning_rate": rate, "gradient_norm": norm,
                "seconds": seconds, "tokens_per_second": tokens / seconds}

    def _evaluate_if_due(self, done: int) -> None:
        every = self.settings.evaluate_steps
        if done == self.plan.steps or (every and done % every == 0):
            self._evaluate(done)

    def _evaluate(self, done: int) -> None:
        if self.heldout is None or not len(self.heldout) or not self.settings.evaluate_sequences:
            return
        found = heldout_loss(self.model, self.heldout, self.settings.evaluate_sequences, self.settings.micro_batch_tokens)
        if not math.isfinite(found["heldout_loss"]):
            raise UserError(f"{self.settings.kind}: the held-out loss after step {done} is not a finite number; the model's "
                            f"weights are damaged, or learning_rate {self.settings.learning_rate} is too high")
        self.metrics.add({"step": done, **found})
        log.info("step %d: held-out loss %.4f, %.4f bits per byte", done, *found.values())

    def _checkpoint_due(self, done: int, saved_at: float) -> bool:
        if done == self.plan.steps:  # what follows is writing the model itself
            return False
        every = self.settings.checkpoint_steps
        return bool(every and done % every == 0) or time.monotonic() - saved_at >= 60 * self.settings.checkpoint_minutes


def train(work: Workspace, model: PreTrainedModel, blocks: Blocks, heldout: Blocks | None, sequence_length: int) -> Training:
    """Train ``model`` (loaded in float32) in place, with the settings of ``work``; fills its counts and facts.

    The caller writes what came of it and then deletes the checkpoints.

    Raises:
        UserError: the model cannot be trained with isolated documents; a loss or gradient is not finite.
    """
    settings, device = work.settings, pick_device(work.machine.device)
    use_isolated_attention(model)
    model.to(device)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    weights = MasterWeights(model, getattr(torch, settings.compute_dtype), settings.weight_decay)
    check_model(model, device)
    plan = make_plan(model, settings, blocks, sequence_length, weights.num_trainable)
    log.info("%s: %s", settings.kind, plan)
    training = Training(model, weights, blocks, heldout, settings, plan, work.path)
    training.run()
    _take_notes(work, training)
    return training


def _take_notes(work: Workspace, training: Training) -> None:
    metrics, plan = training.metrics, training.plan
    tokens, seconds = int(metrics.total("tokens")), metrics.total("seconds")
    work.counts |= {"steps": plan.steps, "tokens": tokens, "sequences": plan.sequences,
                    "trainable_parameters": training.weights.num_trainable}
    losses = [row["loss"] for row in metrics.rows if "loss" in row]
    work.facts |= {"first_loss": losses[0], "final_loss": losses[-1], "tokens_per_second": tokens / seconds,
                   "training_seconds": seconds, "flop": plan.flop, "planned_memory_bytes": plan.memory_bytes,
                   "peak_memory_bytes": peak_memory_bytes(training.model.device)}
    if heldout := metrics.heldout():
        for name in ("heldout_loss", "heldout_bits_per_byte"):
            work.facts |= {f"{name}_before": heldout[0][name], f"{name}_after": heldout[-1][name]}
