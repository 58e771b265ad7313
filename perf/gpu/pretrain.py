"""Training at the shape of Mistral 7B on one GPU: tokens/s, share of the peak, memory; every weight, LoRA and QLoRA.

    python perf/gpu/pretrain.py                                  one H200: results/gpu_pretrain.json
    python perf/gpu/pretrain.py --methods lora,qlora --set gradient_checkpointing=full --set micro_batch_tokens=2048
    python perf/gpu/pretrain.py --methods full --document 300 --attention loop      one call a document instead of one a row
    python perf/gpu/pretrain.py --tiny                           the same on a CPU in seconds, to see that it works

Weights are random and made on the device, tokens are random; the loop, its weights and its loss are the package's own. The
operations are counted here, not taken from the package: 6 for each weight of a matrix and token (4 where it is frozen, whose
gradient nobody computes), 6 x layers x hidden x length for causal attention, nothing for what is computed twice. This is
5 % less than PaLM's count (the embedding too, attention as if not causal), by which 10,600 tokens/s are half of 989 TFLOP/s; by
this one they are 47 %, and half are 11,200.
"""

import argparse
import gc
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from transformers import MistralConfig, MistralForCausalLM

from biomistral.artifact import Workspace
from biomistral.models.load import own_device
from biomistral.recipe import Input, Machine
from biomistral.training.compute import attention
from biomistral.training.compute.attention import use_isolated_attention
from biomistral.training.compute.compiled import compile_model
from biomistral.training.compute.recompute import use_recomputation
from biomistral.training.data.batch import Block, check_model
from biomistral.training.foresight.footprint import footprint, skeleton
from biomistral.training.foresight.plan import make_plan
from biomistral.training.loop import Training
from biomistral.training.parallel import joined
from biomistral.training.settings import FinetuneSettings, LoraSettings, QloraSettings
from biomistral.training.watching.meter import Meter
from biomistral.training.weights.lora import add_adapter
from biomistral.training.weights.masters import MasterWeights
from biomistral.training.weights.quantized import check_bitsandbytes, quantise

RESULTS = Path(__file__).parent.parent / "results" / "gpu_pretrain.json"
MISTRAL_7B: dict[str, Any] = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 32_768, "sliding_window": None, "tie_word_embeddings": False}
TINY = MISTRAL_7B | {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                     "num_attention_heads": 4, "num_key_value_heads": 2}
PROMISE = {"share_of_peak": 0.5, "tokens_per_second": 10_600, "machine": "NVIDIA H200", "method": "full"}
WARM_UP_STEPS = 2


class RandomBlocks:
    """Sequences of random tokens, cut into documents of ``document_tokens``."""

    def __init__(self, count: int, length: int, vocabulary: int, document_tokens: int) -> None:
        self._count, self._length, self._vocabulary, self._document = count, length, vocabulary, document_tokens

    def __len__(self) -> int:
        return self._count

    @property
    def num_tokens(self) -> int:
        return self._count * self._length

    tokens_per_byte = 1.0

    def __getitem__(self, index: int) -> Block:
        tokens = np.random.default_rng(index).integers(3, self._vocabulary, self._length)
        whole, rest = divmod(self._length, self._document)
        lengths = (self._document,) * whole + ((rest,) if rest else ())
        labels = np.append(tokens[1:], -100)
        labels[np.cumsum(lengths) - 1] = -100
        return Block(tokens, labels, lengths, ("random",))


def make_model(shape: dict[str, Any], method: str, device: torch.device) -> MistralForCausalLM:
    """Random weights in bfloat16 on the device, with what the method puts on or under them."""
    with device:
        model = MistralForCausalLM._from_config(MistralConfig(**shape), dtype=torch.bfloat16)
    if method == "qlora":
        check_bitsandbytes()
        quantise(model, None, QloraSettings(), torch.bfloat16, device)
    if method != "full":
        add_adapter(model, LoraSettings(), 0, "random")
    return model


def flop_per_token(shape: dict[str, Any], method: str, length: int) -> float:
    """Operations a token, as this file's head says."""
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    key_value = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    matrices = layers * (2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * shape["intermediate_size"])
    matrices += hidden * shape["vocab_size"]
    return float((6 if method == "full" else 4) * matrices + 6 * layers * hidden * length)


def planned_bytes(shape: dict[str, Any], settings: FinetuneSettings, length: int, device: torch.device) -> int:
    """What the package foresees from the configuration alone."""
    with tempfile.TemporaryDirectory() as folder:
        MistralConfig(**shape, architectures=["MistralForCausalLM"]).save_pretrained(folder)
        adapter = None if settings.method == "full" else settings.lora
        return footprint(skeleton(Path(folder), settings), settings, adapter, length, device.type).training


def measure(shape: dict[str, Any], settings: FinetuneSettings, length: int, document: int) -> dict[str, Any]:
    """Train a few steps; the median of what the log says of them after the first two."""
    with joined(own_device("auto")) as group, tempfile.TemporaryDirectory() as folder:
        if group.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(group.device)
        model = make_model(shape, settings.method, group.device)
        use_isolated_attention(model)
        if settings.compile:
            compile_model(model, settings.gradient_checkpointing)
        use_recomputation(model, settings.gradient_checkpointing)
        weights = MasterWeights(model, None, torch.bfloat16, settings.weight_decay, group, settings.optimizer)
        check_model(model, group.device)
        assert settings.max_steps is not None
        blocks = RandomBlocks(settings.max_steps * settings.batch_sequences, length, shape["vocab_size"], document)
        plan = make_plan(model, settings, blocks, length, weights.num_trainable,
                         planned_bytes(shape, settings, length, group.device))
        meter = Meter(flop_per_token(shape, settings.method, document), group.device, torch.bfloat16)
        work = Workspace(Path(folder), settings, Machine(), "", {})
        training = Training(model, weights, blocks, None, settings, plan, meter, work, group)
        training.run()
        rows = training.metrics.rows[WARM_UP_STEPS:]
    return {"method": settings.method, "trainable_parameters": weights.num_trainable,
            "micro_batch_tokens": settings.micro_batch_tokens, "gradient_checkpointing": settings.gradient_checkpointing,
            "compile": settings.compile, "optimizer": settings.optimizer, "document_tokens": document,
            "tokens_per_second": round(statistics.median(row["tokens_per_second"] for row in rows), 1),
            "share_of_peak": round(statistics.median(row["utilisation"] for row in rows), 4) if meter.peak else None,
            "peak_tflops": round(meter.peak / 1e12, 1) if meter.peak else None,
            "peak_memory_gb": round(rows[-1]["peak_memory_bytes"] / 1e9, 2),
            "planned_memory_gb": round((plan.memory_bytes or 0) / 1e9, 2), "losses": [round(row["loss"], 3) for row in rows]}


def machine() -> str:
    """What this ran on, in words."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="full,lora,qlora")
    parser.add_argument("--tiny", action="store_true", help="a model of 0.1 M parameters, nothing written")
    parser.add_argument("--length", type=int, default=2048, help="tokens a sequence")
    parser.add_argument("--document", type=int, default=0, help="tokens a document; 0: one document a sequence")
    parser.add_argument("--attention", choices=("row", "loop"), default="row", help="one call a row, or one a document")
    parser.add_argument("--name", default="", help="results go to gpu_pretrain_NAME.json")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting")
    options = parser.parse_args()
    shape, length = (TINY, 64) if options.tiny else (MISTRAL_7B, options.length)
    given = {"max_steps": WARM_UP_STEPS + 4, "batch_sequences": 2 if options.tiny else 32, "evaluate_sequences": 0,
             "micro_batch_tokens": length if options.tiny else 4 * length,
             "gradient_checkpointing": "none" if options.tiny else "full", "checkpoint_minutes": 1e6}
    given |= {name: yaml.safe_load(value) for name, _, value in (item.partition("=") for item in options.set)}
    if options.attention == "loop":
        attention.fits = lambda query, dropout: False
    found = []
    for method in options.methods.split(","):
        settings = FinetuneSettings(model=Input("random"), train=(Input("random"),), method=method, sequence_length=length,
                                    **given)
        found.append(measure(shape, settings, length, options.document or length))
        print(json.dumps(found[-1]), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    if not options.tiny:
        text = json.dumps({"machine": machine(), "promise": PROMISE, "settings": given, "attention": options.attention,
                           "runs": found}, indent=1)
        path = RESULTS.with_stem(f"gpu_pretrain_{options.name}") if options.name else RESULTS
        path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
