"""gptqmodel on the folders written here in AutoAWQ's layout: its matrices and logits beside ours, on a CPU.

    python perf/awq_files.py --peer-python VENV/bin/python      # three minutes; VENV: pip install gptqmodel

Random pico models of several architectures, group sizes and zero points, and SmolLM2-135M-Instruct. Matrices have to be the same
to the bit once rounded to float16, in which gptqmodel's plain kernel computes. Logits differ by what it rounds on the way.

gptqmodel 7.7.0 has two layers in Phi-3's MLP where the architecture, and so our file, has ``gate_up_proj``: it leaves that out
with a warning and computes with zeros. So Phi-3 is compared twice, once with that matrix in halves under gptqmodel's names.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from gguf_files import IDS, PROMPTS, divergence

from biomistral.models.load import load_model, load_tokenizer
from biomistral.models.quantized.layouts import WRITTEN
from biomistral.models.settings import ModelSettings
from biomistral.quantization.settings import QuantizeSettings
from biomistral.recipe import Input
from biomistral.run import execute
from gguf_models import make_decoder
from tiny import TEXT

RESULTS = Path(__file__).parent / "results" / "awq.json"
PEER = Path(__file__).parent / "peers" / "gptqmodel_awq.py"
FORMS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {"method": "awq", "group_size": 32}), ("llama", {"method": "awq", "group_size": 64, "symmetric": True}),
    ("llama", {"method": "gptq", "group_size": 128}), ("mistral", {"method": "awq-gptq", "group_size": 64}),
    ("qwen2", {"method": "awq", "group_size": 128}), ("qwen3", {"method": "awq", "group_size": 32}),
    ("gemma", {"method": "awq", "group_size": 64}), ("phi3", {"method": "rtn", "group_size": 32}))
HALVED = ", gate_up_proj in halves"
SHAPE = {"hidden_size": 128, "intermediate_size": 256}


def our_matrices(folder: Path) -> dict[str, Tensor]:
    """Every 4-bit matrix (N, K) of a folder by name, in float32."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    layout = WRITTEN["autoawq"]
    return {name: layout.unpack({suffix: tensors[f"{name}.{suffix}"] for suffix in layout.suffixes}).dequantized().float()
            for name in layout.layers(tensors)}


def matrices_beside(folder: Path, theirs: dict[str, np.ndarray]) -> dict[str, Any]:
    """How many matrices the peer has to the bit in float16, and the largest relative difference of an element of the others."""
    ours = our_matrices(folder)
    halves = {name: (matrix.half().float(), torch.from_numpy(theirs[name])) for name, matrix in ours.items() if name in theirs}
    largest = max(float((mine - other).abs().max() / mine.abs().max()) for mine, other in halves.values())
    return {"matrices": len(ours), "seen": len(halves),
            "equal_in_float16": sum(torch.equal(*pair) for pair in halves.values()),
            "largest_difference": largest}


def beside(folder: Path, sequences: list[list[int]], arrays: dict[str, np.ndarray], number: int) -> dict[str, Any]:
    """By kernel of the peer's: its matrices, and KL(ours || its) of next tokens, ours computed in float32."""
    model, found = load_model(folder, torch.float32), {}
    with torch.inference_mode():
        logits = [model(torch.tensor([sequence])).logits[0] for sequence in sequences]
    for kernel in sorted({name.partition(".")[0] for name in arrays}):
        start = f"{kernel}.{number}."
        theirs = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
        pairs = [(ours, torch.from_numpy(theirs[str(place)])) for place, ours in enumerate(logits)]
        found[kernel] = {**matrices_beside(folder, theirs), "logits": divergence(pairs)}
    return found


def halved(folder: Path, out: Path) -> Path:
    """The same model with each ``gate_up_proj`` as ``gate_proj`` and ``up_proj``: its outputs are the tensors' columns."""
    shutil.copytree(folder, out)
    for file in out.glob("*.safetensors"):
        tensors = load_file(file)
        for name in [name for name in tensors if ".gate_up_proj." in name]:
            for part, half in zip(("gate_proj", "up_proj"), tensors.pop(name).chunk(2, dim=1), strict=True):
                tensors[name.replace("gate_up_proj", part)] = half.contiguous()
        save_file(tensors, file, metadata={"format": "pt"})
    (out / "model.safetensors.index.json").unlink()
    names = {name: file.name for file in sorted(out.glob("*.safetensors")) for name in load_file(file)}
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}), encoding="utf-8")
    return out


def make_forms(place: Path) -> list[tuple[str, Path, list[list[int]]]]:
    """What is compared: its name, its folder and token sequences."""
    (place / "text.txt").write_text(TEXT * 400, encoding="utf-8")
    common: dict[str, Any] = {"calibration": Input(str(place / "text.txt")), "samples": 8, "sequence_length": 256,
                              "evaluation_samples": 1}
    forms = []
    for number, (name, chosen) in enumerate(FORMS):
        model = make_decoder(place / "pico" / str(number), name, "bfloat16", **SHAPE)
        made = execute(QuantizeSettings(model=Input(str(model)), **common, **chosen), place / f"form-{number}")
        forms.append((f"{name} {' '.join(map(str, chosen.values()))}", made.path, IDS.tolist()))
    forms += [(form + HALVED, *rest) for form, *rest in forms if form.startswith("phi3")]
    base = execute(ModelSettings(source=Input("embedded:smollm2-135m-instruct")), place / "smollm2").path
    made = execute(QuantizeSettings(model=Input(str(base)), group_size=64, **common), place / "smollm2-awq")
    prompts = [load_tokenizer(base)(text).input_ids for text in PROMPTS]
    return [*forms, ("SmolLM2-135M-Instruct awq 64", made.path, prompts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python that has gptqmodel")
    python = parser.parse_args().peer_python
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        forms = make_forms(place)
        jobs, out = place / "jobs.json", place / "found.npz"
        read = [halved(folder, place / "halved") if form.endswith(HALVED) else folder for form, folder, _ in forms]
        asked = [{"folder": str(theirs), "names": list(our_matrices(folder)), "sequences": ids}
                 for (_, folder, ids), theirs in zip(forms, read, strict=True)]
        jobs.write_text(json.dumps(asked), encoding="utf-8")
        subprocess.run([python, str(PEER), str(jobs), str(out)], check=True, stdout=subprocess.DEVNULL)
        arrays = dict(np.load(out))
        found = {form: beside(folder, ids, arrays, number) for number, (form, folder, ids) in enumerate(forms)}
    version = subprocess.run([python, "-c", "import importlib.metadata as m; print(m.version('gptqmodel'))"], check=True,
                             capture_output=True, text=True)
    RESULTS.write_text(json.dumps({"gptqmodel": version.stdout.strip(), "forms": found}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
