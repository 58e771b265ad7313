"""What a training will do, said before it starts: steps, tokens, arithmetic, memory."""

import math
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.training.batch import Blocks
from biomistral.training.loss import CHUNK_ELEMENTS
from biomistral.training.settings import TrainingSettings


@dataclass(frozen=True)
class Plan:
    """``sequences`` blocks in ``steps`` steps, about ``tokens`` tokens, ``flop`` operations and ``memory_bytes`` at the peak."""

    steps: int
    sequences: int
    tokens: int
    flop: float
    memory_bytes: int

    def __str__(self) -> str:
        return (f"{self.steps} steps, {self.sequences} sequences, about {self.tokens:,} tokens, {self.flop:.2e} FLOP, "
                f"{self.memory_bytes / 1e9:.1f} GB of memory")


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


def memory_bytes(model: PreTrainedModel, settings: TrainingSettings, sequence_length: int, num_trainable: int) -> int:
    """Estimate of the peak: weights, masters with gradients and moments (16 bytes each), activations, a chunk of logits."""
    bytes_each = 2 if settings.compute_dtype == "bfloat16" else 4
    config = model.config
    tokens = max(settings.micro_batch_tokens, sequence_length)
    width = 12 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    layers = config.num_hidden_layers
    activations = tokens * bytes_each * (layers * config.hidden_size + width if settings.gradient_checkpointing
                                         else layers * width)
    weights = sum(parameter.numel() * (bytes_each if parameter.is_floating_point() else parameter.element_size())
                  for parameter in model.parameters())
    head = model.get_output_embeddings().weight.numel() * 4 + CHUNK_ELEMENTS * 8
    return int(weights + 16 * num_trainable + activations + head)


def make_plan(model: PreTrainedModel, settings: TrainingSettings, blocks: Blocks, sequence_length: int,
              num_trainable: int) -> Plan:
    """The plan of a training on ``blocks``; tokens are the mean length of a block times their number."""
    sequences = num_sequences(settings, len(blocks), sequence_length)
    tokens = round(sequences * blocks.num_tokens / len(blocks))
    return Plan(math.ceil(sequences / settings.batch_sequences), sequences, tokens,
                tokens * flop_per_token(model, sequence_length, num_trainable),
                memory_bytes(model, settings, sequence_length, num_trainable))
