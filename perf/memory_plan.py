"""Memory foreseen before a model is loaded, beside the peak that the training then reaches, on a CPU.

    python perf/memory_plan.py [--only NAME]                      writes results/memory_plan.json

Each row is a stage of its own process, on a model of random weights and a corpus made on the spot: four steps of one to four
sequences. The peak is the process's largest resident size less what it held when the plan was made (the interpreter and its
libraries, about 0.6 GB). Seconds are CPU seconds of the fastest step but the first: what recomputation and 8-bit moments cost.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "memory_plan.json"
SMOL = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "tie_word_embeddings": True}
WIDE = {"vocab_size": 16384, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 12,
        "num_key_value_heads": 4, "tie_word_embeddings": False}
ROWS: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "none": (SMOL, 512, {}),
    "selective": (SMOL, 512, {"gradient_checkpointing": "selective"}),
    "full": (SMOL, 512, {"gradient_checkpointing": "full"}),
    "full, adamw8bit": (SMOL, 512, {"gradient_checkpointing": "full", "optimizer": "adamw8bit"}),
    "one sequence of 1,024": (SMOL, 1024, {"micro_batch_tokens": 1024}),
    "one sequence of 2,048": (SMOL, 2048, {}),
    "float32": (SMOL, 512, {"compute_dtype": "float32"}),
    "LoRA": (SMOL, 512, {"method": "lora"}),
    "LoRA, selective": (SMOL, 512, {"method": "lora", "gradient_checkpointing": "selective"}),
    "LoRA, full": (SMOL, 512, {"method": "lora", "gradient_checkpointing": "full"}),
    "QLoRA": (SMOL, 512, {"method": "qlora"}),
    "wide, none": (WIDE, 512, {}),
    "wide, full": (WIDE, 512, {"gradient_checkpointing": "full"}),
    "wide, LoRA": (WIDE, 512, {"method": "lora"}),
}


def make_model(folder: Path, shape: dict[str, Any]) -> None:
    """Random weights in bfloat16, with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**shape, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def child(folder: Path, length: int, changes: dict[str, Any]) -> None:
    """Train, and print what was foreseen and what was reached."""
    from biomistral.memory import keep_freed_memory
    from biomistral.recipe import Input, Machine
    from biomistral.run import execute
    from biomistral.training.foresight import memory as foresight
    from biomistral.training.settings import FinetuneSettings

    keep_freed_memory()
    if changes.get("method") == "qlora":
        import bitsandbytes  # noqa: F401  (else its libraries would count)
    held: dict[str, int] = {}
    room = foresight._room

    def at_the_plan(device: Any) -> int:
        held["before"] = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        return room(device)

    foresight._room = at_the_plan
    settings = FinetuneSettings(model=Input(folder), train=(Input(folder / "train.jsonl"),), max_steps=4, sequence_length=length,
                                batch_sequences=max(1, 2048 // length), **{"method": "full", **changes})
    made = execute(settings, folder.parent / "out", Machine(device="cpu"))
    rows = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    facts = made.manifest["facts"]
    peak = max(row["peak_memory_bytes"] for row in rows if "loss" in row) - held["before"]
    sys.stdout.write(json.dumps({"planned": facts["planned_memory_bytes"], "peak": peak,
                                 "seconds": min(row["seconds"] for row in rows[1:] if "loss" in row),
                                 "losses": [row["loss"] for row in rows if "loss" in row]}) + "\n")


def measure(shape: dict[str, Any], length: int, changes: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        make = [sys.executable, __file__, "--make", str(folder), json.dumps(shape)]
        subprocess.run(make, check=True, capture_output=True)
        text = "x" * (length - 3)  # with BOS and EOS a whole sequence but for a token
        rows = [{"prompt": "a", "completion": text[1:], "id": str(number)} for number in range(16)]
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = [sys.executable, __file__, "--child", str(folder), str(length), json.dumps(changes)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        make_model(Path(sys.argv[2]), json.loads(sys.argv[3]))
        return
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name has this in it; nothing is written")
    options = parser.parse_args()
    found = {}
    for name, row in ROWS.items():
        if options.only not in name:
            continue
        seen = measure(*row)
        found[name] = {"planned_gb": round(seen["planned"] / 1e9, 3), "peak_gb": round(seen["peak"] / 1e9, 3),
                       "planned_to_peak": round(seen["planned"] / seen["peak"], 3), "seconds": round(seen["seconds"], 2),
                       "last_loss": seen["losses"][-1]}
        print(name, json.dumps(found[name]), flush=True)
    if not options.only:
        text = json.dumps({"machine": f"{platform.machine()} CPU, one thread", "rows": found}, indent=1)
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
