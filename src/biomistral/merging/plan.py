"""What a merge will do, tensor by tensor, checked against the models before the first byte is written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.merging.adapters import Adapter, open_adapter
from biomistral.merging.catalogue import METHODS
from biomistral.merging.checkpoint import Checkpoint, open_checkpoint
from biomistral.merging.compatibility import check_models
from biomistral.merging.config import MergeFile, read_merge_file, split_reference
from biomistral.merging.draws import kept_bytes
from biomistral.merging.floats import BY_NAME
from biomistral.merging.planned import PlannedTensor
from biomistral.merging.planner import Planner
from biomistral.merging.slices import settle_slices
from biomistral.merging.vocabulary import Vocabulary, settle_vocabulary
from biomistral.recipe import nearest

CHUNK = 1 << 19
"""Elements merged at once: 512 K of them in 16 bits are 1 MB, so the result stays in the second-level cache until it is
written."""


@dataclass(frozen=True)
class Plan:
    """A merge ready to be carried out."""

    merge: MergeFile
    models: dict[str, Checkpoint]
    tensors: list[PlannedTensor]
    notes: list[str] = field(default_factory=list)
    fitted: dict[str, Any] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None

    @property
    def base(self) -> Checkpoint:
        """The model whose config and, unless another is named, tokenizer the result takes."""
        return self.models[self.merge.model_names[0]]

    @property
    def depth(self) -> int:
        return len({tensor.name.removeprefix(self.base.stack + ".").split(".")[0] for tensor in self.tensors
                    if tensor.name.startswith(self.base.stack + ".")})

    @property
    def layer_types(self) -> list[str]:
        """``layer_types`` of the result's config: each layer has the kind of the layer its first input comes from."""
        kinds: dict[int, str] = {}
        for tensor in self.tensors:
            if tensor.name.startswith(self.base.stack + "."):
                source = tensor.inputs[0]
                layer, origin = (int(name.removeprefix(self.base.stack + ".").split(".")[0])
                                 for name in (tensor.name, source.tensor))
                kinds[layer] = self.models[source.model].config["layer_types"][origin]
        return [kinds[layer] for layer in sorted(kinds)]

    @property
    def bytes_written(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bytes_read(self) -> int:
        """Bytes of one reading of every input; methods that gather statistics first read some of them again."""
        return sum(source.nbytes for tensor in self.tensors for source in tensor.inputs)

    @property
    def working_bytes(self) -> int:
        """Estimate of the buffers: per input what is mapped, a converted chunk and two float32 ones, and six for the result; the
        masks that DARE keeps between its readings."""
        masks = [kept_bytes(tensor.numel) * (len(tensor.inputs) - 1) for tensor in self.tensors
                 if METHODS[tensor.method].thins == "random"]
        return CHUNK * 4 * (4 * max(len(tensor.inputs) for tensor in self.tensors) + 6) + max(masks, default=0)


def plan_merge(config: Path, folders: dict[str, Path], fit_layers: bool = False, dtype: str = "") -> Plan:
    """Plan a merge.

    Args:
        config: mergekit YAML file.
        folders: where each model that the file names lies; names that are local folders may be left out.
        fit_layers, dtype: see `MergeSettings`.

    Raises:
        UserError: anything about the file or the models that would make the merge impossible or meaningless.
    """
    merge = read_merge_file(config)
    found = _find(merge, folders)
    models, adapters = _open_models(merge, found)
    vocabulary = settle_vocabulary(merge, models)
    notes = check_models(merge, list(models.values()), aligned=vocabulary is not None) + (vocabulary.notes if vocabulary else [])
    slices, fitted = settle_slices(merge, models, fit_layers)
    planner = Planner(merge, models, adapters, vocabulary, BY_NAME[dtype] if dtype else None)
    tensors = planner.tensors(slices)
    return Plan(merge, models, tensors, [*notes, *planner.notes()], fitted, vocabulary)


def _find(merge: MergeFile, folders: dict[str, Path]) -> dict[str, Path]:
    """Where every model and adapter that the file names lies."""
    names = merge.places
    for name in folders:
        if name not in names:
            raise UserError(f"models: {merge.document.path} names no model '{name}'{nearest(name, names)}")
    found = {}
    for name in names:
        found[name] = folders.get(name, Path(name).expanduser())
        if name not in folders and not found[name].is_dir():
            raise UserError(f"{merge.document.path}: model '{name}' is no local folder; say where it lies with "
                            f"models: {{{name}: FOLDER}} (hub:{name} downloads it)")
    return found


def _open_models(merge: MergeFile, found: dict[str, Path]) -> tuple[dict[str, Checkpoint], dict[str, Adapter]]:
    models, adapters = {}, {}
    for name in merge.model_names:
        model, adapter = split_reference(name)
        models[name] = open_checkpoint(name, found[model])
        if adapter is not None:
            adapters[name] = open_adapter(found[adapter], models[name])
    return models, adapters
