"""Several quantised forms of one model, made and measured alike: ``biomistral quantize MODEL --compare awq,nf4,int8``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomistral.artifact import Artifact, input_key, is_artifact
from biomistral.assets import locate
from biomistral.errors import UserError
from biomistral.files import write_json, write_text
from biomistral.progress import log
from biomistral.quantization.settings import QuantizeSettings
from biomistral.recipe import Machine, parse
from biomistral.records import read_rows
from biomistral.run import execute, settings_class

REFERENCE = "16 bits"
_ASKED = ("questions", "protocol", "split", "limit")
_MARKER = "forms.json"


@dataclass(frozen=True)
class Wanted:
    """What to compare: ``settings`` are those of every form but for its method."""

    settings: QuantizeSettings
    methods: Sequence[str]
    out: Path
    speed: bool = True


def folder_name(method: str) -> str:
    """The folder of a form inside the comparison's."""
    return method.replace(":", "-")


def variants(wanted: Wanted) -> dict[str, QuantizeSettings]:
    """The settings of every form, checked; questions are asked by the ``evaluate`` stage, and are no part of them.

    Raises:
        UserError: a method is unknown, named twice, or lacks what it needs.
    """
    if not wanted.methods or len(set(wanted.methods)) < len(wanted.methods):
        raise UserError(f"--compare {','.join(wanted.methods)}: methods with commas between them were expected, each once")
    shared = {name: value for name, value in wanted.settings.model_dump().items() if name not in _ASKED}
    found = {}
    for method in wanted.methods:
        found[method] = parse(QuantizeSettings, {**shared, "method": method}, "--compare")
        found[method].check()
    return found


class _Measurer:
    """Asks and times models; what was measured before, of the same model on the same device, is taken as it is."""

    def __init__(self, wanted: Wanted, machine: Machine) -> None:
        from biomistral.quantization.measure.measure import compute_dtype

        self._wanted, self._machine = wanted, machine
        self.dtype = str(compute_dtype(locate(wanted.settings.model))).removeprefix("torch.")

    def answers(self, model: Path, name: str) -> list[dict[str, Any]] | None:
        """A model's answers to the questions; None if there are none to ask."""
        asked = self._wanted.settings
        if asked.questions is None:
            return None
        settings = parse(settings_class("evaluate"), {
            "model": str(model), "benchmark": asked.questions, "protocols": [asked.protocol], "split": asked.split,
            "limit": asked.limit, "seed": asked.seed, "name": name, "dtype": self.dtype}, "options of quantize --compare")
        made = execute(settings, self._wanted.out / "results" / folder_name(name), self._machine)
        return list(read_rows(made.path / "answers.parquet"))

    def speed(self, model: Path, name: str) -> dict[str, Any]:
        """Memory and speed; empty if they are not wanted."""
        from biomistral.quantization.measure.speed import measured

        if not self._wanted.speed:
            return {}
        place = self._wanted.out / "speed" / f"{folder_name(name)}.json"
        key = [input_key(model), self._machine.device, self.dtype]
        if place.is_file():
            remembered = json.loads(place.read_text(encoding="utf-8"))
            if remembered["key"] == key:
                return dict(remembered["measured"])
        place.parent.mkdir(parents=True, exist_ok=True)
        found = measured(model, self._machine.device, self.dtype)
        write_json(place, {"key": key, "measured": found})
        return found


def compare_forms(wanted: Wanted, machine: Machine) -> list[dict[str, Any]]:
    """Make every form, measure it and the 16-bit model on the same text and questions, and write table and figure.

    Into ``out``: a model folder a form, ``results/``, ``speed/``, and ``forms.json``, ``.md``, ``.csv``, ``.html``, ``.svg``.
    Run again, it goes on where it was.

    Raises:
        UserError: see `variants` and the stages; ``out`` holds something else.
    """
    settings = variants(wanted)
    if is_artifact(wanted.out) or _foreign(wanted.out):
        raise UserError(f"{wanted.out}: already exists and holds no comparison; choose an --out that is empty or new")
    wanted.out.mkdir(parents=True, exist_ok=True)
    if not (wanted.out / _MARKER).is_file():
        write_json(wanted.out / _MARKER, {"rows": []})
    machine = machine.model_copy(update={"overwrite": True, "speed": False})
    measurer, original = _Measurer(wanted, machine), locate(wanted.settings.model)
    made = {}
    for number, (method, one) in enumerate(settings.items(), 1):
        log.info("[%d/%d] %s", number, len(settings), method)
        made[method] = execute(one, wanted.out / folder_name(method), machine)
    rows = _rows(measurer, original, made, wanted.settings.seed)
    _write(wanted, rows)
    return rows


def _foreign(out: Path) -> bool:
    """Whether something is there that no comparison wrote."""
    return out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARKER).is_file()))


def _rows(measurer: _Measurer, original: Path, made: dict[str, Artifact], seed: int) -> list[dict[str, Any]]:
    facts = {method: artifact.manifest["facts"] for method, artifact in made.items()}
    before, speed = measurer.answers(original, REFERENCE), measurer.speed(original, REFERENCE)
    first = next(iter(facts.values()))
    text = next((one["perplexity"]["reference"] for one in facts.values() if "perplexity" in one), None)
    reference = {"form": REFERENCE, "bytes": first["size"]["reference_bytes"], "bits_per_weight": 16.0, "perplexity": text,
                 **_pace(before, speed, None, {})}
    if before is not None:
        reference["accuracy"] = sum(row["right"] for row in before) / len(before)
    rows = [reference]
    for method, one in facts.items():
        after = measurer.answers(made[method].path, method)
        rows.append({"form": method, "bytes": one["size"]["bytes"], "bits_per_weight": one["size"]["bits_per_weight"],
                     **_text(one), **_changed(before, after, seed),
                     **_pace(after, measurer.speed(made[method].path, method), before, speed)})
    return rows


def _text(facts: dict[str, Any]) -> dict[str, Any]:
    if "perplexity" not in facts:
        return {}
    return {"perplexity": facts["perplexity"]["quantized"], "kl_mean": facts["kl_divergence"]["mean"],
            "kl_p99": facts["kl_divergence"]["p99"], "argmax_flips": facts["argmax_flips"]}


def _changed(before: list[dict[str, Any]] | None, after: list[dict[str, Any]] | None, seed: int) -> dict[str, Any]:
    from biomistral.quantization.measure.answers import compare_answers

    if before is None or after is None:
        return {}
    found = compare_answers(before, after, seed)
    accuracy, distribution = found["accuracy"], found["distribution"]
    return {"accuracy": accuracy["quantized"], "difference": [accuracy["difference"], *accuracy["interval"]], "p": accuracy["p"],
            "option_kl_mean": distribution["kl_divergence"]["mean"], "option_kl_p99": distribution["kl_divergence"]["p99"],
            "option_flips": distribution["flips"]}


def _pace(answers: list[dict[str, Any]] | None, speed: dict[str, Any], reference: list[dict[str, Any]] | None,
          reference_speed: dict[str, Any]) -> dict[str, Any]:
    """Memory and speed; ``relative_time`` is that of a question, and without questions that of a prompt."""
    from biomistral.quantization.measure.answers import seconds_per_question

    kept = ("resident_bytes", "weight_bytes", "prefill_tokens_per_second", "decode_tokens_per_second")
    found: dict[str, Any] = {name: speed.get(name) for name in kept}
    if answers is not None:
        found["seconds_per_question"] = seconds_per_question(answers)
        found["relative_time"] = found["seconds_per_question"] / seconds_per_question(reference or answers)
    elif speed:
        found["relative_time"] = (reference_speed or speed)["prefill_tokens_per_second"] / speed["prefill_tokens_per_second"]
    return found


def _write(wanted: Wanted, rows: list[dict[str, Any]]) -> None:
    from biomistral.quantization import figure, table

    out, asked = wanted.out, wanted.settings
    title = f"{Path(asked.model).name}: {len(rows) - 1} quantised forms"
    write_json(out / _MARKER, {"model": str(asked.model), "questions": asked.questions, "protocol": asked.protocol,
                               "split": asked.split, "limit": asked.limit or None, "rows": rows})
    write_text(out / "forms.md", table.markdown(rows))
    write_text(out / "forms.csv", table.comma_separated(rows))
    write_text(out / "forms.html", figure.page(rows, title))
    write_text(out / "forms.svg", figure.picture(rows, title))
