"""A model folder made ready to talk: its weights, its tokenizer, where it ends and how long it can read."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biomistral.chat.speaker import Speaker
from biomistral.errors import UserError
from biomistral.models.adapter import check_adapter, check_base, put_on
from biomistral.models.folder import read_config
from biomistral.models.load import load_model, load_tokenizer, pick_device, pick_dtype
from biomistral.scoring.groups import context_length

_UNKNOWN_CONTEXT = 2048


@dataclass(frozen=True)
class Talker:
    """``context``: most tokens of prompt and answer together."""

    name: str
    speaker: Speaker
    tokenizer: PreTrainedTokenizerBase
    context: int


def load(folder: Path, adapter: Path | None = None, device: str = "auto", dtype: str = "auto", name: str = "") -> Talker:
    """Load a model, with an adapter put on it.

    Raises:
        UserError: see `load_model`; it is a file; the adapter is none, or another model's.
    """
    where = pick_device(device)
    if folder.is_file():
        raise UserError(f"{folder.name}: a file, not a model folder; make it one with: biomistral model import FILE --out FOLDER")
    if adapter is not None:
        from biomistral.artifact import input_key

        check_adapter(adapter)
        check_base(adapter, str(folder), input_key(folder))
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, pick_dtype(dtype, where), where)
    if adapter is not None:
        model = put_on(model, adapter)
    context = context_length(read_config(folder)) or _UNKNOWN_CONTEXT
    names = [one.absolute().name for one in (folder, adapter) if one is not None]
    return Talker(name or "+".join(names), Speaker(model, ends_of(model, tokenizer)), tokenizer, context)


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: those of the generation settings, and the tokenizer's."""
    found = getattr(model.generation_config, "eos_token_id", None)
    ends = [*found] if isinstance(found, list) else [found]
    return frozenset(end for end in (*ends, tokenizer.eos_token_id) if isinstance(end, int))
