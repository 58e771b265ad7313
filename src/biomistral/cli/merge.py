"""``biomistral merge``: merge by a file, plan it, vary it, compare two models."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from biomistral.cli.common import COMMON, Device, Json, Workers, add_stage, emit, machine, parameter, run_stage
from biomistral.errors import UserError
from biomistral.options import pairs
from biomistral.recipe import StageSettings


class _MergeGroup(typer.core.TyperGroup):
    """``merge FILE`` stands for ``merge file FILE``: the files came first, what else is done with merges later."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["file", *args]
        return super().parse_args(ctx, args)


merge_app = typer.Typer(cls=_MergeGroup, no_args_is_help=True, help=(
    "Merge models of one architecture as a mergekit file says: 'biomistral merge FILE --out DIR' (its options: 'merge file "
    "--help')."))


def _run_merge(settings: StageSettings, out: Path | None, plan: bool, **common: Any) -> None:
    """Make the merge, or with ``--plan`` only say what it would do."""
    if not plan:
        if out is None:
            raise UserError("merge: --out is missing: the folder to write (or --plan to see what would be done)")
        run_stage(settings, out, **common)
        return
    from biomistral.assets import locate
    from biomistral.merging.merge import planned

    data, text = planned(settings, locate, out or Path("merged"), common["workers"])  # type: ignore[arg-type]
    emit(data, text, common["as_json"])


add_stage(merge_app, "file", "merge", _run_merge, common=[
    parameter("out", Annotated[Path | None, typer.Option("--out", help="folder to write")], None), *COMMON[1:],
    parameter("plan", Annotated[bool, typer.Option("--plan", help="print every tensor, its inputs, bytes and memory; write "
                                                    "nothing")], False)])


@merge_app.command("diff")
def merge_diff(
    first: Annotated[Path, typer.Argument(help="model folder")],
    second: Annotated[Path, typer.Argument(help="model folder compared with it")],
    top: Annotated[int, typer.Option("--top", min=0, help="only the so many tensors farthest apart; 0: all that differ")] = 20,
    as_json: Json = False,
) -> None:
    """How two models differ, tensor by tensor: distance, cosine, share of equal elements, shapes, settings."""
    from biomistral.merging import diff

    found = diff.diff(first, second)
    emit(found, diff.render(found, top), as_json)


@merge_app.command("sweep")
def merge_sweep(
    config: Annotated[Path, typer.Argument(help="mergekit YAML file whose values are varied", show_default=False)],
    vary: Annotated[list[str], typer.Option("--vary", help="NAME=VALUE,VALUE,...: method, density, weight, t, ... (repeatable)")],
    suite: Annotated[list[str], typer.Option("--suite", help="benchmark folder or questions file (repeatable)")],
    out: Annotated[Path, typer.Option("--out", help="folder of the sweep; run again, it goes on where it was")],
    models: Annotated[list[str], typer.Option("--models", help="where the file's models lie (NAME=FOLDER, repeatable)")] = [],  # noqa: B006
    protocol: Annotated[str, typer.Option("--protocol", help="how questions are put and scored")] = "medconceptsqa-0shot",
    limit: Annotated[int, typer.Option("--limit", min=0, help="questions a task; 0: all of them")] = 0,
    parents: Annotated[bool, typer.Option("--parents/--no-parents", help="ask the merged models themselves too")] = True,
    keep: Annotated[Literal["all", "front"], typer.Option("--keep", help="front: remove merges that another one beats")] = "all",
    fit_layers: Annotated[bool, typer.Option("--fit-layers", help="as of 'merge file'")] = False,
    seed: Annotated[int, typer.Option("--seed", help="root of all randomness")] = 0,
    device: Device = "auto", workers: Workers = 0, as_json: Json = False,
) -> None:
    """Merge over a small grid, ask every merge the same questions, and show which ones no other beats."""
    from biomistral import sweep

    wanted = sweep.Sweep(config, sweep.read_grid(vary), suite, out, pairs("models", models), protocol, limit, fit_layers, parents,
                         keep, seed)
    rows = sweep.run_sweep(wanted, machine(device=device, workers=workers))
    emit(rows, sweep.render(rows), as_json)
