"""llama.cpp, through cyllama, on GGUF files: logits of token sequences and ids of texts (an environment of its own).

    VENV/bin/python llama_cpp.py JOBS.json OUT.npz      # jobs: [{"file", "sequences", "texts"}, ...]

Logits of job n and sequence m are ``n.m`` in OUT; ids are printed as JSON. Key and value caches are float32 and attention is
plain, so that what differs is how weights are multiplied.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from cyllama.llama import llama_cpp

_F32, _NO_FLASH = 0, 0


class Model(llama_cpp.LlamaModel):
    """With what cyllama 0.2.18 itself asks for and has not."""

    @property
    def n_vocab(self) -> int:
        return int(self.get_vocab().n_vocab)


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    """Logits (tokens, vocabulary) of one sequence."""
    settings = llama_cpp.LlamaContextParams()
    settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_threads = 512, 512, 512, 1
    settings.type_k = settings.type_v = _F32
    settings.flash_attn_type = _NO_FLASH
    settings.swa_full = True
    context = llama_cpp.LlamaContext(model, settings)
    batch = llama_cpp.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
    for place, token in enumerate(ids):
        batch.add(token, place, [0], True)
    context.decode(batch)
    found = np.array([context.get_logits_ith(place) for place in range(len(ids))], dtype=np.float32)
    context.close()
    return found


def main(jobs: Path, out: Path) -> None:
    llama_cpp.disable_logging()
    llama_cpp.llama_backend_init()
    llama_cpp.ggml_backend_load_all()
    arrays, ids = {}, []
    for number, job in enumerate(json.loads(jobs.read_text(encoding="utf-8"))):
        try:
            model = Model(job["file"], llama_cpp.LlamaModelParams())
        except (ValueError, RuntimeError, OSError) as error:
            ids.append(f"not loaded: {error}")
            continue
        vocabulary = model.get_vocab()
        ids.append([vocabulary.tokenize(text, True, True) if text else [] for text in job["texts"]])
        arrays |= {f"{number}.{place}": logits_of(model, sequence) for place, sequence in enumerate(job["sequences"])}
        model.close()
    np.savez(out, **arrays)
    sys.stdout.write(json.dumps(ids) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
