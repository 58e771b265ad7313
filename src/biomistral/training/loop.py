"""The training loop: each step is a function of the state and of the step's number, so a resumed run is the same run."""

import math
import time
from dataclasses import dataclass, field
from itertools import chain

import torch
from transformers import PreTrainedModel

from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.progress import bar, log
from biomistral.seeds import seed
from biomistral.training.data.batch import Block, Blocks, collate
from biomistral.training.data.order import indices_of_step
from biomistral.training.ending import Ending, early_ending
from biomistral.training.foresight.plan import Plan
from biomistral.training.keeping.best import Best
from biomistral.training.keeping.checkpoint import Checkpoints
from biomistral.training.keeping.interrupt import held_back
from biomistral.training.parallel import Group
from biomistral.training.schedule import learning_rate
from biomistral.training.settings import TrainingSettings
from biomistral.training.watching.meter import Meter, words
from biomistral.training.watching.metrics import MetricsLog, heldout_loss
from biomistral.training.watching.sinks import open_sinks
from biomistral.training.watching.validation import Validation
from biomistral.training.weights.masters import Weights
from biomistral.training.weights.optimizer import checkpoint_bytes

CHECKPOINTS = "checkpoints"


def _documents(names: list[str]) -> str:
    """The documents of a batch, for a message: the first five and how many more."""
    names = list(dict.fromkeys(names))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@dataclass
class Training:
    """A model, its master weights and its data; `run` trains to the end of the plan. One of a ``group`` of processes."""

    model: PreTrainedModel
    weights: Weights
    blocks: Blocks
    heldout: Blocks | None
    settings: TrainingSettings
    plan: Plan
    meter: Meter
    work: Workspace
    group: Group
    validation: Validation | None = None
    ending: Ending | None = None
    exported: int = field(default=0, init=False)
    checkpoints: Checkpoints = field(init=False)
    best: Best = field(init=False)
    metrics: MetricsLog = field(init=False)
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        writers = self.group.beside() if self.weights.in_parts else Group.alone()
        self.checkpoints = Checkpoints(self.work.path / CHECKPOINTS, self.settings.keep_last, writers,
                                       self.settings.asynchronous_checkpoints)
        self.best = Best(self.checkpoints.folder, writers, self.group)
        self._began = time.monotonic()

    @property
    def steps(self) -> int:
        """Where training ends: the plan's last step, or an earlier one once ``max_hours`` has so decided."""
        return self.plan.steps if self.ending is None else self.ending.steps

    def run(self) -> None:
        """Resume from the last sound checkpoint, or start, and train to the end.

        Raises:
            KeyboardInterrupt: interrupted; a checkpoint of the last whole step has been kept.
            UserError: a loss or gradient is not finite; the disk has no room for a checkpoint.
        """
        done = self._restore()
        sinks = open_sinks(self.work) if self.group.leads else ()
        self.metrics = MetricsLog(self.work.path / "metrics.jsonl", done, sinks)
        if self.settings.asynchronous_checkpoints and self._holds_state:
            log.info("checkpoints are written beside the training, from a copy that takes up to %.2f GB of each process's host",
                     checkpoint_bytes(self.weights.num_held, self.settings.optimizer) / 1e9)
        try:
            self._go_on(done)
        finally:
            self.metrics.close()
            self.checkpoints.wait()

    def _go_on(self, done: int) -> None:
        if done == 0:
            self._evaluate(0)
            self._validate(0)
        self.model.train()
        with bar(self.settings.kind, self.plan.steps) as progress, held_back() as interrupted:
            progress.advance(done)
            saved_at = time.monotonic()
            while done < self.steps:
                row = self._step(done)
                done += 1
                self.metrics.add(row)
                self._evaluate_if_due(done)
                if self.validation is not None and self.validation.due(done, done == self.steps):
                    self._validate(done)
                progress.advance()
                progress.say(words(row))
                if self._stops_or_saves(done, interrupted(), saved_at):
                    saved_at = time.monotonic()
        self.exported = self.best.take_up(done, self.metrics.rows, self.weights) if self.settings.keep_best else done

    def _validate(self, done: int) -> None:
        """Ask the benchmark's questions after ``done`` steps, and keep the weights if no step was better."""
        if self.validation is None:
            return
        self.metrics.add({"step": done, **self.validation.ask(self.model, self.weights, self.group)})
        log.info("step %d: %s", done, self.validation.words(self.metrics.rows[-1]))
        if self.settings.keep_best and 0 < done < self.steps:
            self.checkpoints.wait()  # what two threads say over one channel must not mix
            self.best.offer(done, self.metrics.rows, self.weights)

    def _stops_or_saves(self, done: int, interrupted: bool, saved_at: float) -> bool:
        """Checkpoint if one is due, for whatever reason, and say so. Clocks and signals differ: the processes agree first."""
        self.checkpoints.look()
        now = time.monotonic()
        stops, unsaved, seconds = self.group.largest(interrupted, now - saved_at, now - self._began)
        ending = early_ending(self.settings.max_hours, seconds, done, self.plan.steps) if self.ending is None else None
        if ending is not None:
            self.ending = ending
            log.info("%s: ends after step %d of %d, to keep to max_hours", self.settings.kind, ending.steps, self.plan.steps)
        saves = bool(stops) or ending is not None or self._checkpoint_due(done, unsaved)
        if saves:
            self._save(done, seconds)
        if stops:
            raise KeyboardInterrupt
        return saves

    def _save(self, done: int, seconds: float) -> None:
        """Write the state: whole weights the first process does, and of parts each its own."""
        notes = {"seconds": seconds, "ending": None if self.ending is None else [self.ending.start, self.ending.steps]}
        if self._holds_state:
            self.checkpoints.save(done, self.weights.state(), notes)
        if self.settings.keep_best:
            self.best.prune(self.metrics.rows, self.checkpoints.folder)

    @property
    def _holds_state(self) -> bool:
        return self.weights.in_parts or self.group.leads

    def check_space(self) -> None:
        """Refuse if a checkpoint does not fit on the disk: master and two moments of each weight."""
        self.checkpoints.check_space(checkpoint_bytes(self.weights.num_trainable, self.settings.optimizer))

    def _restore(self) -> int:
        """Take up the newest sound checkpoint; whole weights go from the first process to the others. Returns its step."""
        found = self.checkpoints.load() if self._holds_state else None
        heading = self.group.words_of_first(None if found is None else (found.step, found.notes))
        if heading is None:
            return 0
        step, notes = heading
        room = self.weights.room_for_state(step)
        if found is not None:
            self.checkpoints.read(found, room)
        if not self.weights.in_parts:
            for tensor in room.values():
                self.group.from_first(tensor)
        self.weights.restored()
        self.ending = None if notes["ending"] is None else Ending(*notes["ending"])
        self._began -= notes["seconds"]
        log.info("resuming after step %d of %d", step, self.steps)
        return int(step)

    def batch(self, step: int) -> list[Block]:
        """This process's blocks of a step: a function of the seed, the step's number and the number of processes alone."""
        indices = indices_of_step(self.settings.seed, len(self.blocks), self.plan.sequences, self.settings.batch_sequences, step)
        return [self.blocks[index] for index in self.group.share(list(indices))]

    def _gradient(self, batch: list[Block], step: int) -> tuple[float, int]:
        """Add up the gradient of the step's micro-batches over all processes; returns the step's loss and tokens."""
        mine = (sum(block.num_predicted for block in batch), sum(len(block.tokens) for block in batch))
        num_predicted, tokens = (int(count) for count in self.group.sum(*mine))
        device, part = self.group.device, 0.0
        groups = self.group.micro_batches(batch, self.settings.micro_batch_tokens)
        for number, blocks in enumerate(groups):
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed(self.settings.seed, "dropout", step, number * self.group.size + self.group.rank))
                loss = self.weights.loss(collate(blocks, device), max(1, num_predicted))
                self.weights.backward(loss, last=number == len(groups) - 1)
            part += loss.item()
        return self.group.sum(part)[0], tokens

    def _step(self, step: int) -> dict[str, float]:
        """One optimiser step, ``step`` counted from 0; the row it adds to the log is numbered from 1."""
        started, batch, settings = time.perf_counter(), self.batch(step), self.settings
        loss, tokens = self._gradient(batch, step)
        norm = self.weights.gradient_norm(settings.clip_norm) if math.isfinite(loss) else math.nan
        if not math.isfinite(norm):
            what = "gradient" if math.isfinite(loss) else "loss"
            documents = self.group.words_of_all([name for block in batch for name in block.documents])
            raise UserError(f"{settings.kind}: the {what} of step {step + 1} is not a finite number; nothing of that step was "
                            f"kept; lower learning_rate ({settings.learning_rate}), add warmup_steps, or look at its "
                            f"documents: {_documents(list(chain.from_iterable(documents)))}")
        rate = self._learning_rate(step)
        self.weights.update(rate)
        seconds = time.perf_counter() - started
        return {"step": step + 1, "loss": loss, "tokens": tokens, "learning_rate": rate, "gradient_norm": norm,
                **self.meter.read(tokens, seconds, self.steps - step - 1)}

    def _learning_rate(self, step: int) -> float:
        settings, falls = self.settings, self.ending is not None and step >= self.ending.start
        at = self.ending.start if self.ending is not None and falls else step
        rate = learning_rate(settings.schedule, settings.learning_rate, at, self.plan.steps, settings.warmup_steps)
        return rate * self.ending.factor(step) if self.ending is not None and falls else rate

    def _evaluate_if_due(self, done: int) -> None:
        every = self.settings.evaluate_steps
        if done == self.steps or (every and done % every == 0):
            self._evaluate(done)

    def _evaluate(self, done: int) -> None:
        if self.heldout is None or not len(self.heldout) or not self.settings.evaluate_sequences:
            return
        found = heldout_loss(self.model, self.heldout, self.settings.evaluate_sequences, self.settings.micro_batch_tokens,
                             self.group, self.weights.loss)
        if not math.isfinite(found["heldout_loss"]):
            raise UserError(f"{self.settings.kind}: the held-out loss after step {done} is not a finite number; the model's "
                            f"weights are damaged, or learning_rate {self.settings.learning_rate} is too high")
        self.metrics.add({"step": done, **found})
        log.info("step %d: held-out loss %.4f, %.4f bits per byte", done, *found.values())

    def _checkpoint_due(self, done: int, seconds_since: float) -> bool:
        if done == self.steps:  # what follows is writing the model itself
            return False
        every = self.settings.checkpoint_steps
        return bool(every and done % every == 0) or seconds_since >= 60 * self.settings.checkpoint_minutes
