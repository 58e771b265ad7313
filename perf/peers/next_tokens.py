"""How far a quantised model's next tokens are from its original's: the same lines for every program's result."""

import numpy as np
import torch


def log_probabilities(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """(T - 1, vocabulary), in float32, of what follows each of the first T - 1 tokens."""
    with torch.inference_mode():
        return torch.log_softmax(model(tokens[None]).logits[0, :-1].float(), -1)


def measure(reference: torch.nn.Module, quantized: torch.nn.Module, sequences: torch.Tensor) -> dict[str, float]:
    """Perplexities and KL(reference || quantized) in nats on token sequences (count, T)."""
    nll: list[list[float]] = [[], []]
    divergence, flips = [], []
    for tokens in sequences:
        p, q = log_probabilities(reference, tokens), log_probabilities(quantized, tokens)
        for found, log in zip(nll, (p, q), strict=True):
            found += (-log.gather(1, tokens[1:, None])[:, 0]).tolist()
        divergence += (p.exp() * (p - q)).sum(-1).tolist()
        flips += (p.argmax(-1) != q.argmax(-1)).tolist()
    return {"reference_perplexity": float(np.exp(np.mean(nll[0]))), "perplexity": float(np.exp(np.mean(nll[1]))),
            "kl_mean": float(np.mean(divergence)), "kl_p99": float(np.quantile(divergence, 0.99)),
            "argmax_flips": float(np.mean(flips))}
