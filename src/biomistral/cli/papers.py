"""``biomistral card``, ``export`` and ``publish``: what leaves this machine, with its papers in order."""

from pathlib import Path
from typing import Annotated

import typer

from biomistral.cli.common import Json, emit
from biomistral.options import pairs


def card_command(
    folder: Annotated[Path, typer.Argument(help="model, corpus or benchmark folder; or the adapter/ folder in a model's")],
    out: Annotated[Path | None, typer.Option("--out", help="file to write (default: README.md in the folder)")] = None,
    results: Annotated[list[Path], typer.Option("--results", help=(
        "results folder of this very model (repeatable): its tables, what they show of bias and calibration"))] = [],  # noqa: B006
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
