"""The local engine: a model folder, computed here."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from biomistral import ranks
from biomistral.artifact import Workspace, input_key
from biomistral.evaluation.answered import Answered
from biomistral.evaluation.answering import Compute, answer_all, model_digest, parts_of
from biomistral.evaluation.computing import Computer
from biomistral.evaluation.plan import make_plan
from biomistral.evaluation.spreading import Loading, among_ranks, help_first, on_ray
from biomistral.models.adapter import check_adapter, check_base
from biomistral.models.folder import read_config
from biomistral.models.load import load_tokenizer, own_device, pick_dtype
from biomistral.models.tokens import open_tokenizer
from biomistral.recipe import Machine, canonical_hash
from biomistral.records import Question
from biomistral.scoring.engine import batch_tokens, is_packed
from biomistral.scoring.groups import context_length
from biomistral.scoring.prompts import PROTOCOLS


def answer(work: Workspace, questions: Sequence[Question]) -> Answered:
    """
    Raises:
        UserError: the model, benchmark or protocols do not fit one another (before any weight is loaded), or the model
            computes NaN.
    """
    settings, folder = work.settings, work.locate(work.settings.model)
    chat = any(PROTOCOLS[protocol].chat for protocol in settings.protocols)
    config, tokenizer = read_config(folder), load_tokenizer(folder) if chat else open_tokenizer(folder)
    plan = make_plan(questions, settings, tokenizer, context_length(config))
    adapter = settings.adapter and work.locate(settings.adapter)
    if adapter:
        check_adapter(adapter)
        check_base(adapter, settings.model, input_key(folder))
    name = settings.name or "+".join(one.absolute().name for one in (folder, adapter) if one)
    device = own_device(work.machine.device)
    dtype = pick_dtype(settings.dtype, device)
    budget = settings.max_batch_tokens or batch_tokens(device)
    loading, digest = Loading(folder, dtype, device, budget, adapter), model_digest(folder, adapter)
    parts = parts_of(plan.groups, budget, (digest, str(dtype), device.type), is_packed(dtype, device))
    if not ranks.leads():
        help_first(loading.computer, parts, work.machine)
    computer = loading.computer()
    key = canonical_hash([input_key(folder), input_key(adapter)]) if adapter else input_key(folder)
    facts = {"name": name, "key": key, "parameters": computer.engine.parameters,
             "dtype": str(computer.engine.dtype).removeprefix("torch."),
             "quantization": (config.get("quantization_config") or {}).get("quant_method")}
    if tokenizer.chat_template and chat:
        facts["chat_template"] = canonical_hash(tokenizer.chat_template)
    kept = Path(work.machine.cache) / digest[:16] if work.machine.cache else work.path / "parts"
    with _spread(computer, loading, work.machine) as compute:
        rows = list(answer_all(kept, parts, compute, name))
    return Answered(facts, rows, plan.left_out, asked={"batches_halved": computer.halvings})


def _spread(computer: Computer, loading: Loading, machine: Machine) -> AbstractContextManager[Compute]:
    """Who computes: a Ray cluster, the processes of torchrun, or this one alone."""
    return on_ray(loading, machine) if machine.executor == "ray" else nullcontext(among_ranks(computer))
