"""What a training will do, said before it starts: steps, tokens, arithmetic, memory."""

import math
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.training.data.batch import Blocks
from biomistral.training.settings import TrainingSettings


@dataclass(frozen=True)
class Plan:
    """``sequences`` blocks in ``steps`` steps, about ``tokens`` tokens, ``flop`` operations and ``memory_bytes`` at the peak
    (None: not foreseen)."""

    steps: int
    sequences: int
    tokens: int
    flop: float
    memory_bytes: int | None

    def __str__(self) -> str:
        memory = "memory unknown" if self.memory_bytes is None else f"{self.memory_bytes / 1e9:.1f} GB of memory"
        return (f"{self.steps} steps, {self.sequences} sequences, about {self.tokens:,} tokens, {self.flop:.2e} FLOP, {memory}")


def num_sequences(settings: TrainingSettings, available: int, sequence_length: int) -> int:
    """Blocks trained on: the first of ``epochs``, ``max_tokens`` and ``max_steps`` that is reached.

    Raises:
        UserError: ``max_tokens`` is less than one sequence.
    """
    limits = [max(1, math.ceil(settings.epochs * available - 1e-9))]
    if settings.max_tokens is not None:
        if settings.max_tokens < sequence_length:
            raise UserError(f"max_tokens {settings.max_tokens} is less than one sequence of {sequence_length} tokens; raise it")
        limits.append(settings.max_tokens // sequence_length)
    if settings.max_steps is not None:
        limits.append(settings.max_steps * settings.batch_sequences)
    return min(limits)


def flop_per_token(model: PreTrainedModel, sequence_length: int, num_trainable: int) -> float:
    """Operations of forward and backward for one token of a full-length causal segment (at most that many).

    Two for each weight of a matrix in forward, two more for the gradient of its input, two for its own if it is trained;
    attention adds 6 * layers * hidden * length (PaLM, appendix B, halved as it is causal).
    """
    embedding = model.get_input_embeddings().weight
    total = sum(_num_weights(parameter) for parameter in model.parameters())
    tied = embedding is model.get_output_embeddings().weight
    used = total if tied else total - embedding.numel()
    hidden, layers = model.config.hidden_size, model.config.num_hidden_layers
    return float(4 * used + 2 * min(used, num_trainable) + 6 * layers * hidden * sequence_length)


def _num_weights(parameter: Tensor) -> int:
    """Weights in a parameter: bitsandbytes packs two of four bits into a byte."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else math.prod(state.shape))


def make_plan(model: PreTrainedModel, settings: TrainingSettings, blocks: Blocks, sequence_length: int,
              num_trainable: int, memory_bytes: int | None) -> Plan:
    """The plan of a training on ``blocks``; tokens are the mean length of a block times their number.

    Raises:
        UserError: ``warmup_steps`` are as many as there are steps, so the learning rate would never reach its peak.
    """
    sequences = num_sequences(settings, len(blocks), sequence_length)
    tokens = round(sequences * blocks.num_tokens / len(blocks))
    steps = math.ceil(sequences / settings.batch_sequences)
    if settings.warmup_steps >= steps > 1:
        raise UserError(f"{settings.kind}: warmup_steps {settings.warmup_steps}, but the training has {steps} steps; lower it, "
                        "or train longer (epochs, max_steps, max_tokens)")
    return Plan(steps, sequences, tokens, tokens * flop_per_token(model, sequence_length, num_trainable), memory_bytes)
