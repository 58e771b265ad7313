"""What an artifact was made from, as a card tells it: published parents, corpora, languages, licences."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomistral.artifact import input_key, is_artifact, open_artifact
from biomistral.assets import licence_of
from biomistral.cards.licences import Part
from biomistral.errors import UserError
from biomistral.readme import stated_licence
from biomistral.reporting.lineage import Node, label, lineage_of

MODELS = ("model", "pretrain", "finetune", "merge", "quantize", "select")
QUESTIONS = ("benchmark", "questions", "translate")
_HUB_IDS = {"embedded:smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_TRAINED = ("pretrain", "finetune")
_PLACES = {"pretrain": ("model",), "finetune": ("model", "adapter"), "quantize": ("model",), "model": ("source",)}
_TEXTS = {"pretrain": ("corpus",), "finetune": ("train",)}


@dataclass(frozen=True)
class Origin:
    """The chain behind a model, or a data set's own sources."""

    base_models: list[str]
    relation: str | None
    """The hub's word for what was done to them: merge, finetune, quantized; None for a copy."""
    steps: list[Node]
    """The models from this one back to the first, each before what it was made from."""
    corpora: list[Node]
    datasets: list[str]
    languages: list[str]
    parts: list[Part]


def published_names(given: Mapping[str, str]) -> dict[str, str]:
    """``FOLDER -> owner/name`` as ``key -> owner/name``.

    Raises:
        UserError: no such folder, or no such form of a name.
    """
    found = {}
    for place, name in given.items():
        if not Path(place).exists():
            raise UserError(f"--published {place}={name}: no such folder; name the folder of a parent that lies here")
        if name.count("/") != 1 or name.startswith("/") or name.endswith("/"):
            raise UserError(f"--published {place}={name}: {name!r} is no name on the hub (owner/name)")
        found[input_key(Path(place))] = name
    return found


def origin(node: Node, published: Mapping[str, str]) -> Origin:
    """Everything a card says of an artifact's past."""
    if node.kind not in MODELS:
        return Origin([], None, [node], [node] if node.kind == "corpus" else [], [], _languages([node]), _own_parts(node))
    steps = [part for part in node.walk(parents) if part.kind in MODELS]
    texts = _unique(text for step in steps for text in _named(step, _TEXTS))
    bases, kinds = _bases(node, published)
    sets = [name for text in texts if (name := _hub_name(text, published, "datasets/"))]
    parts = [*(part for step in steps for part in _model_parts(step)), *(part for text in texts for part in _own_parts(text))]
    corpora = [text for text in texts if text.kind == "corpus"]
    return Origin(bases, _relation(kinds), steps, corpora, sets, _languages(texts), list(dict.fromkeys(parts)))


def parents(node: Node) -> list[Node]:
    """The models that one was made from."""
    if node.kind == "merge":
        return [part for part in node.inputs if part.name != node.settings.get("config")]
    if node.kind == "select":
        chosen = node.settings.get("candidates", {}).get(node.facts.get("chosen"))
        return [part for part in node.inputs if part.name == chosen]
    return _named(node, _PLACES)


def _named(node: Node, places: Mapping[str, tuple[str, ...]]) -> list[Node]:
    """The inputs that certain settings of a stage name."""
    names: set[str] = set()
    for setting in places.get(node.kind, ()):
        value = node.settings.get(setting)
        names |= set(value) if isinstance(value, list) else {value} if value else set()
    return [part for part in node.inputs if part.name in names]


def _hub_name(node: Node, published: Mapping[str, str], prefix: str = "") -> str | None:
    if node.key in published:
        return published[node.key]
    if node.name.startswith(f"hub:{prefix}"):
        parts = node.name.removeprefix(f"hub:{prefix}").partition("@")[0].split("/")
        return "/".join(parts[:2])
    return None if prefix else _HUB_IDS.get(node.name)


def _bases(node: Node, published: Mapping[str, str]) -> tuple[list[str], set[str]]:
    """The nearest published ancestors, and the kinds of all steps up to them."""
    names: dict[str, None] = {}
    kinds = {node.kind}
    for parent in parents(node):
        if name := _hub_name(parent, published):
            names[name] = None
            continue
        above, more = _bases(parent, published) if parent.kind in MODELS else ([], set())
        names |= dict.fromkeys(above)
        kinds |= more
    return list(names), kinds


def _relation(kinds: set[str]) -> str | None:
    if "merge" in kinds:
        return "merge"
    return "finetune" if kinds.intersection(_TRAINED) else "quantized" if "quantize" in kinds else None


def _languages(nodes: list[Node]) -> list[str]:
    """Languages of the texts, most documents first."""
    found: dict[str, int] = {}
    for node in nodes:
        counts = node.counts.get("languages")
        for name, number in (counts.items() if isinstance(counts, dict) else ()):
            found[name] = found.get(name, 0) + number
    known = [name for name, number in found.items() if number and name.isalpha() and len(name) <= 3]
    return sorted(known, key=lambda one: (-found[one], one))


def _model_parts(step: Node) -> list[Part]:
    """The licences of models that come from outside: imported ones, and parents that are no artifacts."""
    if step.kind == "model":
        return [Part(f"the model {label(source)}", _model_licence(source) or next(iter(step.licences), None))
                for source in parents(step)]
    return [part for parent in parents(step) if parent.kind == "file" for part in _outside(parent)]


def _outside(parent: Node) -> list[Part]:
    """A parent that is no artifact: a model folder, or the adapter inside an artifact, which brings all of that one's parts."""
    around = parent.path.parent
    if is_artifact(around):
        return origin(lineage_of(open_artifact(around)), {}).parts
    return [Part(f"the model {label(parent)}", _model_licence(parent))]


def _model_licence(source: Node) -> str | None:
    known = licence_of(source.name)
    if known or is_artifact(source.path):
        return known
    return stated_licence(source.path) if source.path.is_dir() else None


def _own_parts(text: Node) -> list[Part]:
    """The licences that a corpus or a benchmark counts; of a file of examples nothing is known."""
    name = label(text)
    what = {"corpus": f"documents of the corpus {name}", "file": f"the examples in {name}"}.get(text.kind, f"questions of {name}")
    if not text.licences:
        return [Part(what, None, text=True)]
    counted = {licence: number if isinstance(number, int) else 1 for licence, number in text.licences.items()}
    return [Part(what, licence, number, text=True) for licence, number in counted.items()]


def _unique(nodes: Iterator[Node]) -> list[Node]:
    return list({node.key: node for node in nodes}.values())


def as_row(node: Node) -> dict[str, Any]:
    """A step for the card's table: what was done, with what, and the key that names it for good."""
    about = {"model": "taken from its source", "pretrain": "pre-trained further", "finetune": "fine-tuned", "merge": "merged",
             "quantize": "quantised", "select": "chosen among candidates"}
    return {"name": label(node), "what": about.get(node.kind, node.kind), "key": node.key}


def attribution_of(corpus: Node) -> tuple[str, Path] | None:
    """The file that names a corpus' documents: its name beside a published model, and where it lies; None if it lies nowhere."""
    file = corpus.path / "ATTRIBUTION.tsv"
    if not file.is_file() or not is_artifact(corpus.path) or open_artifact(corpus.path).key != corpus.key:
        return None
    return f"attribution/{corpus.key[:16]}.tsv", file
