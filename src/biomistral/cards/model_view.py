"""A model's card: its metadata as the hub's classes hold it, and what its template is given."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from biomistral.cards import scores
from biomistral.cards.licences import RULE, Verdict
from biomistral.cards.origin import Origin, as_row, attribution_of, parents
from biomistral.cards.running import Form, commands
from biomistral.merging.card import public, stood_for
from biomistral.recipe import canonical_hash
from biomistral.reporting.lineage import Node, label, licence_words
from biomistral.reporting.results import Run

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from biomistral.cards.card import Subject, Wanted

_SETTINGS = ("method", "learning_rate", "schedule", "epochs", "max_steps", "max_tokens", "batch_sequences", "sequence_length",
             "optimizer", "loss", "form", "lora", "seed")
_TEMPLATES = {"model": "imported", "pretrain": "trained", "finetune": "trained", "merge": "merged", "quantize": "quantized"}
_TAGS = {"merge": ["merge"], "quantize": ["quantized"]}


def build(subject: "Subject", node: Node, past: Origin, verdict: Verdict, wanted: "Wanted",
          names: Mapping[str, str]) -> tuple[str, dict[str, Any], "ModelCardData"]:
    """Template, what it is given, and metadata.

    Raises:
        UserError: a results folder is not sound or about another model.
    """
    form = subject.form
    assert form is not None
    measured = scores.read(wanted.results, _key(subject), {above.key for above in node.walk(parents)} - {node.key})
    title = wanted.repo.rpartition("/")[2] or (f"{node.path.name}, adapter" if subject.is_adapter else node.path.name)
    made = past.steps[1] if node.kind == "select" and len(past.steps) > 1 else node  # what was chosen says how it was made
    base = _base(subject, names, past) if subject.is_adapter else None
    template = "adapter" if subject.is_adapter else _TEMPLATES.get(made.kind, "imported")
    view = {"title": title, "kind": made.kind, "form": form.name, "chats": form.chats, "verdict": verdict, "rule": RULE,
            "steps": [as_row(step) for step in past.steps], "parts": [part for part in past.parts if part.count > 0],
            "corpora": [_corpus(corpus) for corpus in past.corpora], "examples": _examples(past),
            "tables": scores.tables(measured), "limits": scores.limitations(measured.runs), "base": base,
            "commands": commands(form, wanted.repo or subject.folder.name, bool(wanted.repo), (base or {}).get("published")),
            "parameters": node.counts.get("trainable_parameters" if subject.is_adapter else "parameters")
            or made.counts.get("trainable_parameters") or 0,
            "parent": " and ".join(label(parent) for parent in parents(made)) or "a model", **_making(subject, made)}
    return f"{template}.md.j2", view, _metadata(subject, form, past, verdict, title, measured.runs, base)


def _key(subject: "Subject") -> str:
    """The key by which results know the model: its folder's; of an adapter that of base and adapter together."""
    if not subject.is_adapter:
        return subject.artifact.key
    from biomistral.artifact import input_key

    base = subject.artifact.manifest["facts"].get("merged_into", {}).get("key", "")
    return canonical_hash([base, input_key(subject.folder)])


def _base(subject: "Subject", names: Mapping[str, str], past: Origin) -> dict[str, Any]:
    """The very model that an adapter was trained on, with its published name if it has one itself."""
    about = subject.artifact.manifest["facts"].get("merged_into", {})
    own = past.steps[1] if len(past.steps) > 1 else None
    known = own is None or own.key in names or own.kind == "model"
    direct = past.base_models[0] if known and len(past.base_models) == 1 else None
    return {"name": direct or about.get("model", "its base"), "key": about.get("key", ""), "published": direct}


def _metadata(subject: "Subject", form: Form, past: Origin, verdict: Verdict, title: str, runs: Sequence[Run],
              base: dict[str, Any] | None) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    relation = "adapter" if subject.is_adapter else past.relation
    library = {"gguf": "gguf", "adapter": "peft"}.get(form.name, "transformers")
    bases = ([base["published"]] if base["published"] else []) if base else past.base_models
    tags = ["biomistral", "medical", "research-only", *_TAGS.get(subject.artifact.kind, []),
            *([form.name] if form.name not in ("plain", "adapter", "gguf") else []), *(["conversational"] if form.chats else [])]
    results = scores.model_index(runs)
    more: dict[str, Any] = {"base_model_relation": relation} if relation and bases else {}
    return ModelCardData(
        language=past.languages or None, license=verdict.id, library_name=library, pipeline_tag="text-generation", tags=tags,
        base_model=bases or None, datasets=past.datasets or None, model_name=title if results else None,
        eval_results=results or None, **more)


def _corpus(corpus: Node) -> dict[str, Any]:
    counts = corpus.counts
    sources, refused = counts.get("sources") or {}, counts.get("refused") or {}
    return {"name": label(corpus), "key": corpus.key, "documents": counts.get("documents", 0), "tokens": counts.get("tokens", 0),
            "languages": ", ".join(counts.get("languages") or {}), "sources": ", ".join(sources) or "not recorded",
            "licences": licence_words({name: number for name, number in corpus.licences.items() if number}) or "not recorded",
            "refused": ", ".join(f"{reason} {number:,}" for reason, number in refused.items()) or "nothing",
            "attribution": _attribution(corpus)}


def _attribution(corpus: Node) -> str:
    """Where every document is named; the file is published with the model if the corpus lies here."""
    if (file := attribution_of(corpus)) is None:
        return "The corpus does not lie here any more; its `ATTRIBUTION.tsv` names every document with its authors and licence."
    return f"`{file[0]}` names every document with its title, authors, journal, year, licence and address."


def _examples(past: Origin) -> str:
    """What was fine-tuned on, by name."""
    found = [label(part) for step in past.steps if step.kind == "finetune" for part in step.inputs
             if part.name in (step.settings.get("train") or [])]
    return ", ".join(dict.fromkeys(found))


def _making(subject: "Subject", made: Node) -> dict[str, Any]:
    """What the template of this kind needs besides."""
    if made.kind in ("pretrain", "finetune"):
        return {"settings": {name: json.dumps(value) if isinstance(value, dict) else value for name in _SETTINGS
                             if (value := made.settings.get(name)) not in (None, "")}}
    if made.kind == "merge":
        return {"merge": _merge(subject, made)}
    if made.kind == "quantize":
        return {"quantization": _quantization(made), "file": subject.form.detail.get("file") if subject.form else None}
    return {"source": ", ".join(label(parent) for parent in parents(made)) or "a model", "dtype": made.facts.get("dtype")}


def _merge(subject: "Subject", made: Node) -> dict[str, Any]:
    """From ``merge.json``; names that are folders of a machine go by the folder's own."""
    file = subject.folder / "merge.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    text = str(told.get("file") or "")
    inputs = {entry["name"]: entry for entry in told.get("inputs") or []}
    for name in sorted(inputs, key=len, reverse=True):
        text = text.replace(name, public(name))
    facts, places = made.facts, made.settings.get("models", {})
    drift, kept = facts.get("drift", {}), facts.get("kept", {})
    rows = [{"name": stood_for(name, places.get(name, name)), "licence": entry["licence"], "drift": drift.get(name),
             "kept": kept.get(name)} for name, entry in inputs.items()]
    return {"method": facts.get("method", "?"), "sign_conflicts": facts.get("sign_conflicts"), "file": text, "parents": rows}


def _quantization(made: Node) -> dict[str, Any]:
    facts = made.facts
    perplexity, divergence, size = (facts.get(name) or {} for name in ("perplexity", "kl_divergence", "size"))
    losses: dict[str, str] = {}
    if "reference" in perplexity:
        losses["perplexity, 16 bits"] = f"{perplexity['reference']:.2f}"
        losses["perplexity, this"] = f"{perplexity['quantized']:.2f}"
    if "mean" in divergence:
        losses["KL divergence of the next token, mean (nats)"] = f"{divergence['mean']:.4f}"
    if facts.get("argmax_flips") is not None:
        losses["likeliest next tokens that changed (%)"] = f"{100 * facts['argmax_flips']:.1f}"
    if size.get("bytes") and size.get("reference_bytes"):
        losses["bytes of its weights"] = f"{size['bytes']:,}"
        losses["bytes in 16 bits"] = f"{size['reference_bytes']:,}"
    bits = size.get("bits_per_weight")
    return {"method": facts.get("method") or made.settings.get("method"), "bits": facts.get("bits"), "losses": losses or {
        "not measured": "–"}, "simulated": bool(facts.get("simulated")), "bits_per_weight": f"{bits:.2f}" if bits else "fewer"}
