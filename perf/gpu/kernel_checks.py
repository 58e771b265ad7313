"""What this project asks of a GPU's kernels: do they compute what they should, and how fast? Seconds; prints, writes nothing.

    python perf/gpu/kernel_checks.py

1. torch's attention for several lengths, forwards and backwards, beside a float32 one with a mask: relative errors, which
   bfloat16 makes 0.002 to 0.01.
2. The Triton kernel that makes weights of integers: the same bits as PyTorch's operations, and the time of both.
3. The rate of a bfloat16 product at Mistral 7B's shape: the most that training can reach.
4. Where a training step's time goes, with four of Mistral 7B's layers: eager and with `compile: true`.
"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile
from triton.testing import do_bench

sys.path.insert(0, str(Path(__file__).parent))
from pretrain import MISTRAL_7B, measure

from biomistral.models.quantized import gpu_kernel
from biomistral.models.quantized.dequantise_gpu import dequantise_by_operations, kernel_is_exact
from biomistral.recipe import Input
from biomistral.training.compute.segments import Segments
from biomistral.training.compute.varlen import fits, varlen_attention
from biomistral.training.settings import FinetuneSettings

GPU = torch.device("cuda")
TOKENS = 700
WIDTH, INNER = MISTRAL_7B["hidden_size"], MISTRAL_7B["intermediate_size"]


def attention(lengths: list[int], window: int | None) -> list[float]:
    """Relative errors of the output and of the gradients of queries, keys and values."""
    inputs = [torch.randn(1, heads, TOKENS, 128, device=GPU, dtype=torch.bfloat16, requires_grad=True) for heads in (32, 8, 8)]
    assert fits(inputs[0], 0.0)
    found = varlen_attention(*inputs, Segments(lengths), None, window)
    weight = torch.randn_like(found)
    found = [found, *torch.autograd.grad(found, inputs, weight)]
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(GPU)
    back = torch.arange(TOKENS, device=GPU)[:, None] - torch.arange(TOKENS, device=GPU)
    mask = (owner[:, None] == owner) & (back >= 0) & (back < (window or TOKENS))
    shared = [exact[0], *(tensor.repeat_interleave(4, 1) for tensor in exact[1:])]
    wanted = scaled_dot_product_attention(*shared, attn_mask=mask).transpose(1, 2)
    wanted = [wanted, *torch.autograd.grad(wanted, exact, weight.float())]
    return [float((one.float() - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True)]


def integers() -> None:
    print("the kernel's bits are those of PyTorch's operations:", kernel_is_exact(GPU), kernel_is_exact(GPU, torch.float32))
    for shift, rows in ((0, INNER // 2), (None, INNER)):
        stored = torch.randint(0, 256, (rows, WIDTH), dtype=torch.uint8, device=GPU)
        zeros = torch.randint(0, 16, (rows, WIDTH // 128), dtype=torch.uint8, device=GPU)
        scales, out = torch.randn(zeros.shape, device=GPU).half(), torch.empty(rows, WIDTH, dtype=torch.bfloat16, device=GPU)
        for function in (dequantise_by_operations, gpu_kernel.dequantise):
            ms = do_bench(lambda: function(stored, shift, zeros, scales, out), return_mode="median")  # noqa: B023
            name, rate = function.__module__.split(".")[-1], 3 * out.numel() / ms / 1e6
            print(f"{'8' if shift is None else '4'} bits, {name}: {ms:.3f} ms, {rate:.0f} GB/s")


def products() -> None:
    weight = torch.randn(INNER, WIDTH, device=GPU, dtype=torch.bfloat16)
    for rows in (2048, 4096, 8192):
        x = torch.randn(rows, WIDTH, device=GPU, dtype=torch.bfloat16)
        ms = do_bench(lambda: x @ weight.T, return_mode="median")  # noqa: B023
        print(f"product of {rows} rows: {2 * rows * weight.numel() / ms / 1e9:.0f} TFLOP/s")


def training(compiled: bool) -> None:
    settings = FinetuneSettings(model=Input("random"), train=(Input("random"),), method="full", sequence_length=2048, max_steps=4,
                                batch_sequences=8, evaluate_sequences=0, checkpoint_minutes=1e6, micro_batch_tokens=4096,
                                gradient_checkpointing="selective", compile=compiled)
    shape = MISTRAL_7B | {"num_hidden_layers": 4}
    print(measure(shape, settings, 2048, 2048), flush=True)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as watched:
        measure(shape, settings, 2048, 2048)
    rows = [row for row in watched.key_averages() if row.self_device_time_total and str(row.device_type).endswith("CUDA")]
    total = sum(row.self_device_time_total for row in rows)
    for row in sorted(rows, key=lambda row: -row.self_device_time_total)[:20]:
        print(f"{100 * row.self_device_time_total / total:5.1f} % {row.count:6d} times {row.key[:110]}", flush=True)


def main() -> None:
    print(torch.cuda.get_device_name(), torch.__version__)
    for lengths, window in (([TOKENS], None), ([300, 37, 363], None), ([TOKENS], 128)):
        print("attention", lengths, window, " ".join(f"{error:.4f}" for error in attention(lengths, window)))
    integers()
    products()
    for compiled in (False, True):
        training(compiled)


if __name__ == "__main__":
    main()
