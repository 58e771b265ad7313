"""llm-compressor on a CPU, in its own environment: quantise a model in memory, note CPU seconds and memory, then measure it.

    python llm_compressor.py MODEL TOKENS.npz awq|gptq|rtn GROUP_SIZE OUT.json [--symmetric]

TOKENS.npz holds ``calibration`` and ``evaluation``, (sequences, tokens). Only the call that quantises is timed.
Its AWQ pins memory for a GPU without asking whether there is one: that one call is made to do nothing here.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from next_tokens import measure
from transformers import AutoModelForCausalLM


def recipe(method: str, group_size: int, symmetric: bool) -> list[object]:
    scheme = {"weights": {"num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": group_size}}
    common = {"config_groups": {"group_0": {"targets": ["Linear"], **scheme}}, "ignore": ["lm_head"]}
    if method == "gptq":
        return [GPTQModifier(**common)]
    if method == "rtn":
        return [QuantizationModifier(**common)]
    try:  # from 0.12 on
        from llmcompressor.modifiers.transform.awq import AWQModifier
    except ImportError:
        from llmcompressor.modifiers.awq import AWQModifier
        return [AWQModifier(**common)]
    return [AWQModifier(), QuantizationModifier(**common)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("method", choices=["awq", "gptq", "rtn"])
    parser.add_argument("group_size", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--symmetric", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        IntermediatesCache.pin_memory = lambda *_: None
    sequences = np.load(arguments.tokens)
    calibration = sequences["calibration"]
    data = Dataset.from_dict({"input_ids": calibration.tolist(), "attention_mask": np.ones_like(calibration).tolist()})
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16)
    started, before = time.perf_counter(), time.process_time()
    with_data = {} if arguments.method == "rtn" else {
        "dataset": data, "max_seq_length": calibration.shape[1], "num_calibration_samples": len(calibration)}
    oneshot(model=model, recipe=recipe(arguments.method, arguments.group_size, arguments.symmetric), **with_data)
    found = {"cpu_s": time.process_time() - before, "wall_s": time.perf_counter() - started,
             "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    reference = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16)
    found |= measure(reference, model, torch.from_numpy(sequences["evaluation"]))
    arguments.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
