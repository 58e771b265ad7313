"""``biomistral quantize``: one form of a model, or several side by side."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from biomistral.cli.common import COMMON, add_stage, emit, machine, parameter, run_stage
from biomistral.recipe import StageSettings

_Compare = Annotated[str, typer.Option("--compare", help=(
    "make several forms, e.g. awq,nf4,int8,gguf:Q4_0, in folders under --out, and a table of what each costs and keeps"))]
_Speed = Annotated[bool, typer.Option(
    "--speed/--no-speed", help="measure memory and tokens a second beside the 16-bit model, in processes of their own")]


def _run_quantize(settings: StageSettings, out: Path, compare: str, speed: bool, **common: Any) -> None:
    """Make one form, or those that ``--compare`` names."""
    if not compare:
        run_stage(settings, out, speed=speed, **common)
        if not common["as_json"]:
            from biomistral.quantization.report import REPORT, in_words

            report = json.loads((out / REPORT).read_text(encoding="utf-8"))
            emit(report, in_words(report), as_json=False)
        return
    from biomistral import forms
    from biomistral.quantization.table import markdown

    wanted = forms.Wanted(settings, [word for word in compare.split(",") if word], out, speed)  # type: ignore[arg-type]
    rows = forms.compare_forms(wanted, machine(device=common["device"], workers=common["workers"]))
    emit(rows, f"{markdown(rows)}\n{out / 'forms.html'} shows it; forms.md, .csv, .json and .svg lie beside it",
         common["as_json"])


def add_quantize(app: typer.Typer) -> None:
    """Put the command into ``app``."""
    add_stage(app, "quantize", "quantize", _run_quantize, common=[
        *COMMON, parameter("compare", _Compare, ""), parameter("speed", _Speed, True)])
