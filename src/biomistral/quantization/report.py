"""What quantising cost: perplexity, KL divergence from the 16-bit model, changed predictions, size."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from biomistral.memory import give_back_freed_memory

Reader = Callable[[Tensor], Tensor]
REPORT = "quantization.json"
ROWS = 64


class Comparison:
    """Two models on the same tokens, position by position; ``count`` positions in all.

    Room for what is kept is made at the start: small results that stay, allocated between large ones that go, would break up
    the freed memory, and every step would take new one (1.9 GB instead of 0.8 for SmolLM2 and 4,096 tokens).
    """

    def __init__(self, count: int) -> None:
        self._reference_nll, self._quantized_nll, self._divergence, self._flips = torch.zeros(4, count).unbind()
        self._seen = 0

    def add(self, log_p: Tensor, log_q: Tensor, targets: Tensor) -> None:
        """Log-probabilities (rows, vocabulary) in both models, which are used up, and the tokens (rows,) that really followed."""
        new = slice(self._seen, self._seen + len(targets))
        self._reference_nll[new] = -log_p.gather(1, targets[:, None])[:, 0]
        self._quantized_nll[new] = -log_q.gather(1, targets[:, None])[:, 0]
        self._flips[new] = (log_p.argmax(-1) != log_q.argmax(-1)).float()
        self._divergence[new] = log_q.neg_().add_(log_p).mul_(log_p.exp_()).sum(-1).clamp_(min=0)
        self._seen = new.stop

    def summary(self) -> dict[str, Any]:
        """Perplexities, KL(16-bit || quantised) in nats (mean and 99th percentile), share of changed argmax tokens."""
        assert self._seen == len(self._flips)
        divergence = self._divergence.double()
        return {
            "tokens": divergence.numel(),
            "perplexity": {"reference": float(self._reference_nll.double().mean().exp()),
                           "quantized": float(self._quantized_nll.double().mean().exp())},
            "kl_divergence": {"mean": float(divergence.mean()), "p99": float(divergence.quantile(0.99))},
            "argmax_flips": float(self._flips.double().mean()),
        }


def compare(readers: tuple[Reader, Reader], finals: Iterable[tuple[Tensor, Tensor]], sequences: Tensor) -> dict[str, Any]:
    """`Comparison.summary` from each sequence's final hidden states (T, hidden) in both models and its tokens (sequences, T);
    ``readers`` are the models' heads, which make logits of some rows."""
    comparison = Comparison(len(sequences) * (sequences.shape[1] - 1))
    for (one, other), tokens in zip(finals, sequences, strict=True):
        give_back_freed_memory()
        for start in range(0, len(tokens) - 1, ROWS):
            rows = slice(start, min(start + ROWS, len(tokens) - 1))
            log_p = functional.log_softmax(readers[0](one[rows]).float(), -1)  # one model's logits at a time
            log_q = functional.log_softmax(readers[1](other[rows]).float(), -1)
            comparison.add(log_p, log_q, tokens[rows.start + 1:rows.stop + 1])
            del log_p, log_q
    return comparison.summary()


def squared_error(reference: Tensor, quantized: Tensor) -> tuple[float, float]:
    """||b - a||^2 and ||a||^2 of hidden states."""
    exact = reference.float()
    return float((quantized.float() - exact).square_().sum()), float(exact.square().sum())


def relative_error(reference: Iterable[Tensor], quantized: Iterable[Tensor]) -> float:
    """||b - a||^2 / ||a||^2 over all hidden states."""
    pairs = [squared_error(*pair) for pair in zip(reference, quantized, strict=True)]
    return sum(change for change, _ in pairs) / sum(energy for _, energy in pairs)


def in_words(report: dict[str, Any]) -> str:
    """A line of what a form costs and keeps: what was measured of it."""
    size = report["size"]
    said = [f"{size['bytes'] / 1e6:,.1f} MB, {size['bits_per_weight']:.2f} bits a weight"]
    if "perplexity" in report:
        said.append(f"perplexity {report['perplexity']['quantized']:.2f} (16 bits: {report['perplexity']['reference']:.2f})")
        said.append(f"KL divergence {report['kl_divergence']['mean']:.4f} nats")
        said.append(f"{report['argmax_flips']:.1%} of next tokens changed")
    if "questions" in report:
        accuracy = report["questions"]["accuracy"]
        said.append(f"accuracy {accuracy['quantized']:.1%} (16 bits: {accuracy['reference']:.1%})")
    return "; ".join(said)
