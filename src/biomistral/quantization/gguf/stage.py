"""The methods ``gguf:TYPE``: one file for llama.cpp and Ollama, and beside it what the other stages read a model by."""

import time
from collections import Counter
from math import prod
from typing import Any

from biomistral.artifact import Workspace, is_artifact, open_artifact
from biomistral.files import write_json, write_text
from biomistral.models.folder import copy_tokenizer, read_config
from biomistral.models.gguf import config_entry
from biomistral.progress import log
from biomistral.quantization.gguf.container import write_gguf
from biomistral.quantization.gguf.plan import COMPUTED, Plan, file_name, make_plan
from biomistral.quantization.report import REPORT


def quantize(work: Workspace) -> None:
    """Write ``model-TYPE.gguf``, its ``Modelfile``, config and tokenizer. Cut off, it begins anew: 7 B take two minutes.

    Raises:
        UserError: see `make_plan` and `write_gguf`.
    """
    settings, folder, started = work.settings, work.locate(work.settings.model), time.monotonic()
    kind = settings.method.removeprefix("gguf:")
    licences = open_artifact(folder).manifest["licences"] if is_artifact(folder) else {}
    plan = make_plan(folder, kind, work.path, next(iter(licences)) if len(licences) == 1 else None)
    file = work.path / file_name(kind)
    if not file.is_file():
        write_gguf(file, plan.architecture, plan.fields, plan.entries, folder)
    for remark in plan.remarks:
        log.warning("%s: %s", folder, remark)
    _write_beside(work, plan, file.name)
    report = {"method": settings.method, "size": _size(plan, kind, file.stat().st_size),
              "gguf": {"file": file.name, "tensors": dict(Counter(entry.storage.name for entry in plan.entries)),
                       "not_in_blocks": [entry.source for entry in plan.entries if _fell_back(entry.storage.name, kind)],
                       "remarks": plan.remarks}}
    write_json(work.path / REPORT, report)
    work.counts = {"tensors": len(plan.entries), "parameters": report["size"]["parameters"]}
    work.licences = licences
    work.facts = {**report, "seconds": round(time.monotonic() - started, 1)}


def _fell_back(stored: str, kind: str) -> bool:
    return stored == "F16" and kind not in ("F16", "F32", "BF16")


def _write_beside(work: Workspace, plan: Plan, file: str) -> None:
    """What `load_model` and every tokenizer need: the folder stands for the model as its original did."""
    config = {name: value for name, value in read_config(plan.folder).items() if name != "torch_dtype"}
    write_json(work.path / "config.json", {**config, "dtype": str(plan.dtype).removeprefix("torch."),
                                           "quantization_config": config_entry(file)})
    write_text(work.path / "Modelfile", plan.modelfile)
    copy_tokenizer(plan.folder, work.path)


def _size(plan: Plan, kind: str, num_bytes: int) -> dict[str, Any]:
    """Bytes of the file against 16 bits a parameter; bits a weight of the tensors in the type asked for."""
    own = [entry for entry in plan.entries if entry.storage.name == kind]
    quantized = sum(prod(entry.shape) for entry in own)
    parameters = sum(prod(entry.shape) for entry in plan.entries if entry.source != COMPUTED)
    bits = 8 * sum(entry.num_bytes for entry in own)
    return {"parameters": parameters, "quantized_parameters": quantized, "bytes": num_bytes, "reference_bytes": 2 * parameters,
            "bits_per_weight": bits / max(1, quantized), "bits_per_parameter": 8 * num_bytes / parameters}
