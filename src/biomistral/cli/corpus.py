"""``biomistral corpus``: build a corpus, download its articles, look into it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from biomistral.cli.common import COMMON, Executor, Json, add_stage, emit, parameter
from biomistral.errors import UserError

corpus_app = typer.Typer(no_args_is_help=True, help="Build and inspect training corpora.")

add_stage(corpus_app, "build", "corpus", common=[*COMMON, parameter("executor", Executor, "local")])


@corpus_app.command("download")
def corpus_download(
    out: Annotated[Path, typer.Option("--out", help="folder for the packages; give it to 'corpus build' as a source")],
    subset: Annotated[Literal["cloud", "oa_comm", "oa_noncomm", "oa_other", "europe_pmc"], typer.Option("--subset", help=(
        "PMC's single articles from its public bucket; its former packages by licence (commercial use, non-commercial, other) "
        "from a mirror; or Europe PMC's open-access dumps"))] = "cloud",
    url: Annotated[str | None, typer.Option(
        "--url", help="base of a mirror: of the bucket, of NCBI's oa_bulk area, or that directory itself")] = None,
    since: Annotated[str | None, typer.Option("--since", help=(
        "incremental packages, or of cloud articles that changed, from this day (YYYY-MM-DD)"))] = None,
    packages: Annotated[Literal["baseline", "incremental", "all"], typer.Option("--packages", help="kinds of packages")] = "all",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first so many packages (cloud: articles)")] = None,
    metadata: Annotated[bool, typer.Option("--metadata/--no-metadata", help=(
        "cloud: fetch licence and retraction of each article too (two requests an article)"))] = True,
    connections: Annotated[int, typer.Option("--connections", min=1, max=64, help="cloud: articles fetched at a time")] = 16,
    max_rate: Annotated[float | None, typer.Option("--max-rate", min=0.001, help="most MB a second")] = None,
    listing: Annotated[bool, typer.Option("--list", help="say what would be fetched; fetch nothing")] = False,
    as_json: Json = False,
) -> None:
    """Fetch packages of open-access articles; run again, it goes on where it was and fetches only what is missing."""
    if subset == "cloud":
        if packages != "all":
            raise UserError("--packages: single articles have no baseline; leave it out, --since takes what changed")
        _download_articles(out, url, since, limit, metadata, connections, max_rate, listing, as_json)
        return
    from biomistral.corpus.download import fetch as download

    wanted = download.Download(subset, out, url, since, packages, limit, max_rate)
    if listing:
        rows = download.plan(wanted)
        lines = [f"{row['state']:9} {row['bytes'] / 1e6:10.1f} MB  {row['date']:17} {row['name']}" for row in rows]
        emit(rows, "\n".join([*lines, f"{sum(row['bytes'] for row in rows) / 1e9:.2f} GB in {len(rows)} files"]), as_json)
        return
    done = download.download(wanted)
    emit(done, f"{out}: {done['packages']} packages, {done['fetched']} files fetched ({done['bytes'] / 1e6:.1f} MB)", as_json)


def _download_articles(out: Path, url: str | None, since: str | None, limit: int | None, metadata: bool, connections: int,
                       max_rate: float | None, listing: bool, as_json: bool) -> None:
    from biomistral.corpus.download import cloud

    wanted = cloud.CloudDownload(out, url, since, limit, metadata, connections, max_rate)
    if listing:
        told = cloud.plan(wanted)
        emit(told, f"inventory of {told['inventory']}: {told['articles']} of {told['there']} articles to fetch, about "
                    f"{told['bytes'] / 1e9:.2f} GB (by {told['sampled']} of them)", as_json)
        return
    done = cloud.download(wanted)
    emit(done, f"{out}: {done['articles']} articles in {done['packages']} packages ({done['bytes'] / 1e6:.1f} MB); "
                f"{done['left_out']} left out (not open access), {done['refused']} could not be had", as_json)


@corpus_app.command("show")
def corpus_show(
    folder: Annotated[Path, typer.Argument(help="corpus folder")],
    refused: Annotated[str | None, typer.Option("--refused", help="list what was refused for a reason, e.g. licence")] = None,
    as_json: Json = False,
) -> None:
    """The account of a corpus: documents, licences, languages, refusals, packing; or what was refused for one reason."""
    from biomistral.corpus.account import show

    if refused is not None:
        rows = list(show.refused(folder, refused))
        emit(rows, show.render_refused(iter(rows)), as_json)
        return
    data = show.account(folder)
    emit(data, show.render(data), as_json)
