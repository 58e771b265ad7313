"""llama.cpp on the GGUF files written here: its logits and token ids beside those of transformers on the same models.

    python perf/gguf_files.py --peer-python VENV/bin/python      # three minutes; VENV: pip install cyllama numpy

Three parts. Random pico models of every architecture and kind of rotary scaling, stored as float32: what differs is the order of
sums, and llama.cpp's tabulated GELU. Tokenizers of every kind on texts that are awkward to cut. SmolLM2-135M-Instruct as F16,
Q8_0 and Q4_0: llama.cpp rounds activations to multiply (to float16, or to 8 bits in blocks), which is not a fault of the file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from biomistral.models.load import load_model, load_tokenizer
from biomistral.models.settings import ModelSettings
from biomistral.quantization.gguf.samples import EDGES, TEXTS
from biomistral.quantization.settings import QuantizeSettings
from biomistral.recipe import Input
from biomistral.run import execute
from gguf_models import DECODERS, make_decoder
from gguf_tokenizers import AWKWARD, KINDS, with_tokenizer

RESULTS = Path(__file__).parent / "results" / "gguf.json"
PEER = Path(__file__).parent / "peers" / "llama_cpp.py"
IDS = torch.arange(3, 303).reshape(2, 150)
PROMPTS = (
    "The patient was given aspirin 100 mg daily after a myocardial infarction; two weeks later she came back with black",
    "<|im_start|>user\nWhat is the ICD-10-CM code E11.9?<|im_end|>\n<|im_start|>assistant\n",
    "Methods: We searched MEDLINE from 1990 to 2024 for randomised trials of metformin in adults with type 2 diabetes, and",
    "La tension artérielle de 145/92 mmHg a été mesurée à l'hôpital. 患者は薬を服用しました。 def f(x):\n    return x ** 2\n")
EVERY = [*(text for text in AWKWARD if text and "\x00" not in text), *TEXTS,
         *(text.replace("{special}", "</s>") for text in EDGES.values())]


class Jobs:
    """What llama.cpp is asked, beside what was expected of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[dict[str, Any]] = []
        self.expected: list[tuple[str, list[Tensor], list[list[int]], list[str]]] = []

    def add(self, name: str, model: Path, kind: str, sequences: list[list[int]], texts: list[str]) -> None:
        made = execute(QuantizeSettings(model=str(model), method=f"gguf:{kind}"), self.folder / f"{name}-{kind}")
        (file,) = made.path.glob("*.gguf")
        loaded, tokenizer = load_model(made.path, torch.float32), load_tokenizer(model)
        with torch.inference_mode():
            logits = [loaded(torch.tensor([sequence])).logits[0] for sequence in sequences]
        self.asked.append({"file": str(file), "sequences": sequences, "texts": texts})
        self.expected.append((name, logits, [tokenizer(text).input_ids for text in texts], texts))

    def run(self, python: str) -> list[dict[str, Any]]:
        jobs, out = self.folder / "jobs.json", self.folder / "logits.npz"
        jobs.write_text(json.dumps(self.asked), encoding="utf-8")
        ended = subprocess.run([python, str(PEER), str(jobs), str(out)], check=True, capture_output=True, text=True)
        ids, arrays = json.loads(ended.stdout.splitlines()[-1]), np.load(out)
        return [self._compared(number, ids[number], arrays) for number in range(len(self.asked))]

    def _compared(self, number: int, ids: list[list[int]] | str, arrays: Any) -> dict[str, Any]:
        name, logits, expected, texts = self.expected[number]
        if isinstance(ids, str):
            return {"name": name, "failed": ids}
        unlike = [text for text, ours, theirs in zip(texts, expected, ids, strict=True) if ours != theirs]
        pairs = [(ours, torch.from_numpy(arrays[f"{number}.{place}"])) for place, ours in enumerate(logits)]
        row = {"name": name, "texts": len(texts), "texts_cut_otherwise": unlike}
        return {**row, **divergence(pairs)} if pairs else row


def divergence(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """KL(ours || llama.cpp's) in nats over all positions."""
    ours, theirs = (torch.cat([pair[which] for pair in pairs]).double() for which in (0, 1))
    log_p, log_q = ours.log_softmax(-1), theirs.log_softmax(-1)
    found = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
    return {"positions": len(found), "kl_mean": float(found.mean()), "kl_max": float(found.max()),
            "largest_difference": float((ours - theirs).abs().max()),
            "argmax_flips": int((ours.argmax(-1) != theirs.argmax(-1)).sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python that has cyllama")
    python = parser.parse_args().peer_python
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        architectures, tokenizers, real = (Jobs(folder / name) for name in ("architectures", "tokenizers", "real"))
        for jobs in (architectures, tokenizers, real):
            jobs.folder.mkdir()
        for name in DECODERS:
            architectures.add(name, make_decoder(folder / "pico" / name, name), "F32", IDS.tolist(), [])
        pico = make_decoder(folder / "pico" / "more", "llama", vocab_size=600)
        for name, make in KINDS.items():
            tokenizers.add(name, with_tokenizer(pico, folder / "cut" / name, make), "Q8_0", [], EVERY)
        model = execute(ModelSettings(source=Input("embedded:smollm2-135m-instruct")), folder / "smollm2").path
        prompts = [load_tokenizer(model)(text).input_ids for text in PROMPTS]
        for kind in ("F16", "Q8_0", "Q4_0"):
            real.add(f"SmolLM2-135M-Instruct {kind}", model, kind, prompts, [*EVERY, *PROMPTS])
        found = {"architectures": architectures.run(python), "tokenizers": tokenizers.run(python), "models": real.run(python)}
    version = subprocess.run([python, "-c", "import cyllama; print(cyllama.__version__)"], check=True, capture_output=True,
                             text=True)
    RESULTS.write_text(json.dumps({"cyllama": version.stdout.strip(), **found}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sys.stdout.write(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
