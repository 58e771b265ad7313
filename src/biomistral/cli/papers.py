"""``biomistral card``, ``export`` and ``publish``: what leaves this machine, with its papers in order."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from biomistral.cli.common import Json, emit
from biomistral.options import pairs


def card_command(
    folder: Annotated[Path, typer.Argument(help="model, corpus or benchmark folder; or the adapter/ folder in a model's")],
    out: Annotated[Path | None, typer.Option("--out", help="file to write (default: README.md in the folder)")] = None,
    results: Annotated[list[Path], typer.Option("--results", help=(
        "results folder of this very model (repeatable): its tables, what they show of bias and calibration; with one of a model "
        "it was made from the paired differences to that"))] = [],  # noqa: B006
    repo: Annotated[str, typer.Option("--repo", help="owner/name it will be published under: commands on the card use it")] = "",
    published: Annotated[list[str], typer.Option("--published", help="FOLDER=owner/name: where a parent or corpus is published "
                                                 "(repeatable)")] = [],  # noqa: B006
    licence: Annotated[str, typer.Option("--licence", help=(
        "the licence you give it, e.g. apache-2.0; otherwise the most restrictive one of what went in, else 'other'"))] = "",
    force: Annotated[bool, typer.Option("--force", help="replace a README that was written or edited by hand")] = False,
    as_json: Json = False,
) -> None:
    """Write the Hugging Face card of a model, corpus or benchmark: origin, licence, training data, results with intervals, how to
    run it in this form. Run again, it renews its own part of the README; what you wrote above or below that part stays."""
    from biomistral.cards.card import Wanted, write_card
    from biomistral.readme import front_matter

    place = write_card(folder, out, Wanted(results, repo, pairs("published", published), licence), force)
    front = front_matter(place)
    emit({"card": str(place), "metadata": front}, f"{place}\nlicence: {front['license']}"
         + (f" ({front['license_name']})" if "license_name" in front else ""), as_json)


def export_command(
    folders: Annotated[list[Path], typer.Argument(help="results folders, one a model; imported ones too")],
    form: Annotated[Literal["pwc", "csv", "latex", "json"], typer.Option("--format", help=(
        "pwc: Papers-with-Code's evaluation tables; csv; latex: a table like the paper's, marked by paired tests; json"))],
    out: Annotated[Path, typer.Option("--out", help="file to write")],
    paper_title: Annotated[str, typer.Option("--paper-title", help="of pwc: the paper that the rows name")] = "",
    paper_url: Annotated[str, typer.Option("--paper-url", help="of pwc: its address")] = "",
    published: Annotated[bool, typer.Option("--published", help=(
        "add the BioMistral paper's own results, in tables of their own"))] = False,
    as_json: Json = False,
) -> None:
    """Write scores in a form that others read: every one with its protocol, its definition's hash and its interval. 'results
    import' reads csv, json and pwc again."""
    from biomistral.reporting.exports.export import export

    scores = export(folders, form, out, (paper_title, paper_url), published)
    models = len({score.model for score in scores})
    emit({"file": str(out), "scores": len(scores), "models": models}, f"{out}: {len(scores)} scores of {models} models", as_json)


def publish_command(
    folder: Annotated[Path, typer.Argument(help="model, corpus or benchmark folder with its card; or a model's adapter/")],
    to: Annotated[str, typer.Option("--to", help="owner/name of the repository; made if it is not there")],
    yes: Annotated[bool, typer.Option("--yes", help="do it; without this the command only says what it would send")] = False,
    public: Annotated[bool, typer.Option("--public", help="for everyone to see; otherwise the repository is private")] = False,
    rights: Annotated[bool, typer.Option("--rights", help=(
        "you have the right to publish what the licences in it forbid or do not state"))] = False,
    replace: Annotated[bool, typer.Option("--replace", help=(
        "take out files of the repository that this folder does not have, in the same commit"))] = False,
    as_json: Json = False,
) -> None:
    """Put a folder and its card on the Hugging Face hub. Without --yes it only lists files, hashes, licence and whatever speaks
    against it, and sends nothing. The token comes from HF_TOKEN alone; the hub is HF_ENDPOINT's. Cut off, the same command goes
    on where it was; the repository changes in one commit at the end."""
    from dataclasses import asdict

    from biomistral.publishing import publish as publishing
    from biomistral.publishing.plan import make_plan

    plan = make_plan(folder, to, public, rights)
    if yes:
        done = publishing.publish(plan, replace)
        emit(asdict(done), f"{done.url} ({'private' if done.private else 'public'}), as {done.user}: {len(done.sent)} files "
             f"sent, {len(done.already_there)} were there already, {len(done.removed)} taken out", as_json)
        return
    data = {"to": plan.repo, "kind": plan.kind, "public": plan.public, "licence": plan.licence, "bytes": plan.size,
            "files": [{"name": file.name, "bytes": file.size, "blake3": file.blake3} for file in plan.files],
            "warnings": plan.warnings, "problems": plan.problems}
    how = "" if plan.problems else " To publish: the same command with --yes"
    emit(data, f"{publishing.render(plan)}\n\nNothing was sent.{how}", as_json)
    publishing.check(plan)
