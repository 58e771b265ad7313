"""The local engine: a model folder, computed here."""

from collections.abc import Sequence

import torch

from biomistral.artifact import Workspace, input_key
from biomistral.evaluation.answered import Answered
from biomistral.evaluation.answering import answer_all
from biomistral.evaluation.plan import make_plan
from biomistral.models.folder import read_config
from biomistral.models.load import load_model, load_tokenizer, num_parameters, pick_device
from biomistral.recipe import canonical_hash
from biomistral.records import Question
from biomistral.scoring.engine import Engine
from biomistral.scoring.groups import context_length
from biomistral.scoring.prompts import PROTOCOLS

_FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")


def answer(work: Workspace, questions: Sequence[Question]) -> Answered:
    """
    Raises:
        UserError: the model, benchmark or protocols do not fit one another (before any weight is loaded), or the model
            computes NaN.
    """
    settings, folder = work.settings, work.locate(work.settings.model)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    plan = make_plan(questions, settings, tokenizer, context_length(config))
    name = settings.name or folder.absolute().name
    device = pick_device(work.machine.device)
    model = load_model(folder, pick_dtype(settings.dtype, device), device)
    facts = {"name": name, "key": input_key(folder), "parameters": num_parameters(model),
             "dtype": str(model.dtype).removeprefix("torch."),
             "quantization": (config.get("quantization_config") or {}).get("quant_method")}
    rows = list(answer_all(work.path / "parts", plan.groups, Engine(model, settings.max_batch_tokens), tokenizer, name))
    if tokenizer.chat_template and any(PROTOCOLS[protocol].chat for protocol in settings.protocols):
        facts["chat_template"] = canonical_hash(tokenizer.chat_template)
    return Answered(facts, rows, plan.left_out)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on processors that multiply it in hardware; elsewhere it is slower than float32."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(able.get(feature) for feature in _FAST_BFLOAT16) else torch.float32
