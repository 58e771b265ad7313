"""What quantising cost: perplexity, KL divergence from the 16-bit model, changed predictions, size."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

REPORT = "quantization.json"
ROWS = 256  # logits of so many positions at a time: 256 x 128k vocabulary x 4 bytes = 131 MB


@dataclass
class Comparison:
    """Two models on the same tokens, position by position."""

    reference_nll: list[Tensor] = field(default_factory=list)
    quantized_nll: list[Tensor] = field(default_factory=list)
    divergence: list[Tensor] = field(default_factory=list)
    flips: list[Tensor] = field(default_factory=list)

    def add(self, reference: Tensor, quantized: Tensor, targets: Tensor) -> None:
        """Logits (rows, vocabulary) of both models and the tokens (rows,) that really followed."""
        log_p, log_q = (functional.log_softmax(logits.float(), -1) for logits in (reference, quantized))
        self.reference_nll.append(-log_p.gather(1, targets[:, None])[:, 0])
        self.quantized_nll.append(-log_q.gather(1, targets[:, None])[:, 0])
        self.divergence.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp_(min=0))
        self.flips.append(log_p.argmax(-1) != log_q.argmax(-1))

    def summary(self) -> dict[str, Any]:
        """Perplexities, KL(16-bit || quantised) in nats (mean and 99th percentile), share of changed argmax tokens."""
        divergence = torch.cat(self.divergence).double()
        return {
            "tokens": divergence.numel(),
            "perplexity": {"reference": float(torch.cat(self.reference_nll).double().mean().exp()),
                           "quantized": float(torch.cat(self.quantized_nll).double().mean().exp())},
            "kl_divergence": {"mean": float(divergence.mean()), "p99": float(divergence.quantile(0.99))},
            "argmax_flips": float(torch.cat(self.flips).double().mean()),
        }


def compare(norm: nn.Module, head: nn.Module, reference: Iterable[Tensor], quantized: Iterable[Tensor],
            sequences: Tensor) -> dict[str, Any]:
    """Compare from the last layer's hidden states, (1, T, hidden) each, and the tokens (sequences, T)."""
    comparison = Comparison()
    with torch.inference_mode():
        for exact, rounded, tokens in zip(reference, quantized, sequences, strict=True):
            targets = tokens[1:].to(exact.device)
            for start in range(0, len(targets), ROWS):
                rows = slice(start, min(start + ROWS, len(targets)))
                comparison.add(head(norm(exact[0, rows])), head(norm(rounded[0, rows])), targets[rows])
    return comparison.summary()


def relative_error(reference: Iterable[Tensor], quantized: Iterable[Tensor]) -> float:
    """||b - a||^2 / ||a||^2 over all hidden states."""
    change = sum(float((b.float() - a.float()).square().sum()) for a, b in zip(reference, quantized, strict=True))
    return change / sum(float(a.float().square().sum()) for a in reference)
