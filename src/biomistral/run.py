"""Run one stage, or a recipe's stages in order: what is fresh is reused, what was cut off resumes."""

import importlib
from pathlib import Path

from biomistral.artifact import Artifact, inputs_of, produce
from biomistral.assets import locate
from biomistral.errors import UserError
from biomistral.recipe import Machine, StageSettings, nearest

KINDS = {
    "model": "biomistral.models.settings:ModelSettings",
    "benchmark": "biomistral.benchmarks.settings:BenchmarkSettings",
    "corpus": "biomistral.corpus.settings:CorpusSettings",
    "pretrain": "biomistral.training.settings:PretrainSettings",
    "finetune": "biomistral.training.settings:FinetuneSettings",
    "merge": "biomistral.merging.settings:MergeSettings",
    "quantize": "biomistral.quantization.settings:QuantizeSettings",
    "evaluate": "biomistral.evaluation.settings:EvaluateSettings",
    "select": "biomistral.evaluation.settings:SelectSettings",
    "report": "biomistral.reporting.settings:ReportSettings",
}


def settings_class(kind: str) -> type[StageSettings]:
    """The settings of a kind of stage.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of stage '{kind}'{nearest(kind, KINDS)}")
    module, _, name = KINDS[kind].partition(":")
    found: type[StageSettings] = getattr(importlib.import_module(module), name)
    return found


def execute(settings: StageSettings, out: Path, machine: Machine | None = None) -> Artifact:
    """Make one artifact whose inputs are local paths, ``embedded:`` or ``hub:`` names."""
    places = {str(name): locate(name) for name in dict.fromkeys(inputs_of(settings))}
    return produce(settings, out, places, machine)
