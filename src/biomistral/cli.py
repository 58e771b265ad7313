"""The command line: parse, call one function, print. Heavy imports stay inside the commands (--help under 0.5 s)."""

import inspect
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from biomistral import __version__, ranks
from biomistral.errors import UserError
from biomistral.options import command_for, pairs
from biomistral.recipe import Machine, StageSettings, parse
from biomistral.run import execute, settings_class
from biomistral.scoring.names import Formulation


class _Group(typer.core.TyperGroup):
    """Exit codes: 0 done, 2 wrong usage or input (one line), 130 interrupted and resumable, 1 our bug (traceback)."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            if ranks.says_it():
                print(f"biomistral: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("biomistral: interrupted; run the same command again and it goes on", file=sys.stderr)
            sys.exit(130)


class _MergeGroup(typer.core.TyperGroup):
    """``merge FILE`` stands for ``merge file FILE``: the files came first, what else is done with merges later."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["file", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(name="biomistral", cls=_Group, pretty_exceptions_enable=False, no_args_is_help=True,
                  add_completion=False, rich_markup_mode=None,
                  help="Turn an open language model into a medical one, and prove what it got.",
                  epilog="Begin with: biomistral doctor; biomistral run recipes/quickstart.yaml")
corpus_app = typer.Typer(no_args_is_help=True, help="Build and inspect training corpora.")
benchmark_app = typer.Typer(no_args_is_help=True, help="Build question sets.")
model_app = typer.Typer(no_args_is_help=True, help="Bring models into the form the stages read, and choose among them.")
merge_app = typer.Typer(cls=_MergeGroup, no_args_is_help=True, help=(
    "Merge models of one architecture as a mergekit file says: 'biomistral merge FILE --out DIR' (its options: 'merge file "
    "--help')."))
app.add_typer(model_app, name="model")
app.add_typer(merge_app, name="merge")
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(corpus_app, name="corpus")

Json = Annotated[bool, typer.Option("--json", help="print machine-readable results on stdout")]
Out = Annotated[Path, typer.Option("--out", help="folder to write; must be new, empty or hold the same artifact")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N or auto")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="worker processes; 0 takes one per core")]
Executor = Annotated[Literal["local", "ray"], typer.Option(
    "--executor", help="local: processes of this machine; ray: the cluster RAY_ADDRESS names, else a local one (extra 'ray')")]
LogTo = Annotated[list[str], typer.Option(
    "--log-to", help="where a training's rows go besides metrics.jsonl [any of tensorboard,trackio,wandb; repeatable]")]
IgnoreMemory = Annotated[bool, typer.Option(
    "--ignore-memory", help="train even where the plan needs more memory than there is")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace another finished artifact that lies in --out")]


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_COMMON = [_parameter("out", Out), _parameter("device", Device, "auto"), _parameter("workers", Workers, 0),
           _parameter("overwrite", Overwrite, False), _parameter("as_json", Json, False)]


def _machine(**options: Any) -> Machine:
    return parse(Machine, options, "options of the machine")


def _emit(data: Any, text: str, as_json: bool) -> None:
    if ranks.leads():
        print(json.dumps(data, indent=1, ensure_ascii=False) if as_json else text)


def _run_stage(settings: StageSettings, out: Path, device: str, workers: int, overwrite: bool, as_json: bool,
               executor: Literal["local", "ray"] = "local", log_to: Sequence[Any] = (), ignore_memory: bool = False) -> None:
    artifact = execute(settings, out, _machine(device=device, workers=workers, overwrite=overwrite, executor=executor,
                                               log_to=log_to, ignore_memory=ignore_memory))
    summary = {"kind": artifact.kind, "key": artifact.key, "folder": str(artifact.path),
               "counts": artifact.manifest["counts"], "facts": artifact.manifest["facts"]}
    counts = ", ".join(f"{name} {value}" for name, value in summary["counts"].items() if not isinstance(value, dict))
    _emit(summary, f"{artifact.path}: {artifact.kind} {artifact.key[:12]}{' (' + counts + ')' if counts else ''}", as_json)


def _run_evaluations(several: list[StageSettings], out: Path, **common: Any) -> None:
    """One results folder a model: ``out`` itself for one, ``out/MODEL`` for several."""
    if len(several) == 1:
        _run_stage(several[0], out, **common)
        return
    names = [getattr(settings, "name", "") or Path(str(settings.model)).name for settings in several]  # type: ignore[attr-defined]
    if len(set(names)) < len(names):
        raise UserError(f"--model: two models are called the same ({', '.join(names)}); evaluate them one by one with --name")
    for name, settings in zip(names, several, strict=True):
        _run_stage(settings, out / name, **common)


def _run_merge(settings: StageSettings, out: Path | None, plan: bool, **common: Any) -> None:
    """Make the merge, or with ``--plan`` only say what it would do."""
    if not plan:
        if out is None:
            raise UserError("merge: --out is missing: the folder to write (or --plan to see what would be done)")
        _run_stage(settings, out, **common)
        return
    from biomistral.assets import locate
    from biomistral.merging.merge import planned

    data, text = planned(settings, locate, out or Path("merged"), common["workers"])  # type: ignore[arg-type]
    _emit(data, text, common["as_json"])


def _run_report(settings: StageSettings, out: Path, **common: Any) -> None:
    _run_stage(settings, out, **common)
    if not common["as_json"]:
        print(f"open {(out / 'index.html').absolute().as_uri()}")


def _add(group: typer.Typer, name: str, kind: str, run: Callable[..., None] = _run_stage,
         flags: dict[str, tuple[str, ...]] | None = None, many: str = "",
         common: list[inspect.Parameter] | None = None) -> None:
    group.command(name)(command_for(settings_class(kind), run, common or _COMMON, flags, many))


@app.command("run")
def run_command(
    recipe: Annotated[Path, typer.Argument(help="recipe file, e.g. recipes/quickstart.yaml")],
    out: Annotated[Path | None, typer.Option("--out", help="folder of the run (default: runs/NAME)")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="one of the recipe's profiles, e.g. smoke")] = None,
    start: Annotated[str | None, typer.Option("--from", help="make this stage and all after it again")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be made, reused, resumed; do nothing")] = False,
    device: Device = "auto", workers: Workers = 0, log_to: LogTo = (), as_json: Json = False,  # type: ignore[assignment]
    ignore_memory: IgnoreMemory = False,
) -> None:
    """Run a recipe's stages in order: what is fresh is reused, what was cut off resumes."""
    from biomistral.run import run_recipe

    rows = run_recipe(recipe, out, profile=profile, start=start, dry_run=dry_run,
                      machine=_machine(device=device, workers=workers, log_to=log_to, ignore_memory=ignore_memory))
    lines = [f"{row['state']:8} {row['stage']:24} {row['kind']:10} {row['key'][:12]}  {row['folder']}" for row in rows]
    findings = [finding for row in rows for finding in row.get("findings", [])]
    lines += ["", *findings] if findings else []
    pages = [] if dry_run else [Path(row["folder"]) / "index.html" for row in rows if row["kind"] == "report"]
    lines += [f"\nThe leaderboard page: {page.as_uri()}" for page in pages]
    _emit(rows, "\n".join(lines), as_json)


_add(model_app, "import", "model")
_add(benchmark_app, "build", "benchmark")
_add(corpus_app, "build", "corpus", common=[*_COMMON, _parameter("executor", Executor, "local")])
_TRAINING = [*_COMMON, _parameter("log_to", LogTo, ()), _parameter("ignore_memory", IgnoreMemory, False)]
_add(app, "pretrain", "pretrain", common=_TRAINING)
_add(app, "finetune", "finetune", common=_TRAINING)
_add(merge_app, "file", "merge", _run_merge, common=[
    _parameter("out", Annotated[Path | None, typer.Option("--out", help="folder to write")], None), *_COMMON[1:],
    _parameter("plan", Annotated[bool, typer.Option("--plan", help="print every tensor, its inputs, bytes and memory; write "
                                                    "nothing")], False)])
_add(app, "quantize", "quantize")
_add(app, "evaluate", "evaluate", _run_evaluations, {"benchmark": ("--suite", "--benchmark"), "model": ("--model",)}, "model")
_add(model_app, "select", "select")
_add(app, "report", "report", _run_report)


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
        _emit(rows, "\n".join([*lines, f"{sum(row['bytes'] for row in rows) / 1e9:.2f} GB in {len(rows)} files"]), as_json)
        return
    done = download.download(wanted)
    _emit(done, f"{out}: {done['packages']} packages, {done['fetched']} files fetched ({done['bytes'] / 1e6:.1f} MB)", as_json)


def _download_articles(out: Path, url: str | None, since: str | None, limit: int | None, metadata: bool, connections: int,
                       max_rate: float | None, listing: bool, as_json: bool) -> None:
    from biomistral.corpus.download import cloud

    wanted = cloud.CloudDownload(out, url, since, limit, metadata, connections, max_rate)
    if listing:
        told = cloud.plan(wanted)
        _emit(told, f"inventory of {told['inventory']}: {told['articles']} of {told['there']} articles to fetch, about "
                    f"{told['bytes'] / 1e9:.2f} GB (by {told['sampled']} of them)", as_json)
        return
    done = cloud.download(wanted)
    _emit(done, f"{out}: {done['articles']} articles in {done['packages']} packages ({done['bytes'] / 1e6:.1f} MB); "
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
        _emit(rows, show.render_refused(iter(rows)), as_json)
        return
    data = show.account(folder)
    _emit(data, show.render(data), as_json)


@app.command("preview")
def preview_command(
    model: Annotated[str, typer.Option("--model", help="model folder: its tokenizer and chat template; weights are not read")],
    train: Annotated[list[str], typer.Option("--train", help="what 'finetune --train' would be given (repeatable)")],
    sequence_length: Annotated[int, typer.Option("--sequence-length", min=2, help="most tokens of a sequence")] = 2048,
    loss: Annotated[Literal["completion", "full_text"], typer.Option("--loss", help="tokens it is taken on")] = "completion",
    too_long: Annotated[Literal["refuse", "drop"], typer.Option("--too-long", help="longer ones: stop, or drop")] = "refuse",
    split: Annotated[str, typer.Option("--split", help="of a benchmark's questions: the split to train on")] = "train",
    tasks: Annotated[list[str], typer.Option("--tasks", help="of a benchmark's questions: only these")] = [],  # noqa: B006
    form: Annotated[Formulation, typer.Option("--form", help="how a benchmark's questions are put")] = "letters",
    samples: Annotated[int, typer.Option("--samples", min=1, help="examples shown, evenly spread over the files")] = 3,
    as_json: Json = False,
) -> None:
    """Show what 'finetune' would train on: decoded examples with their loss mask, token counts, what is too long."""
    from biomistral.assets import locate
    from biomistral.training.data import preview
    from biomistral.training.data.questions import Choice

    words = tuple(word for item in tasks for word in item.split(",") if word)
    found = preview.preview(locate(model), [locate(name) for name in train], sequence_length, samples, loss == "full_text",
                            Choice(split, words, form))
    _emit(found.as_data(), preview.render(found, sys.stdout.isatty(), too_long), as_json)


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
    _emit(found, diff.render(found, top), as_json)


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
    rows = sweep.run_sweep(wanted, _machine(device=device, workers=workers))
    _emit(rows, sweep.render(rows), as_json)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="results folder of the baseline")],
    second: Annotated[Path, typer.Argument(help="results folder of the other model")], as_json: Json = False,
) -> None:
    """Compare two models on the same questions: paired differences with intervals and exact McNemar tests."""
    from biomistral.reporting import compare as comparison

    rows = comparison.compare(first, second)
    _emit(rows, comparison.render(rows), as_json)


@app.command()
def lineage(
    folder: Annotated[Path, typer.Argument(help="a site, results, model or corpus folder")],
    documents: Annotated[bool, typer.Option("--documents", help="list every article with its licence")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="compare every file with its hash")] = False,
    as_json: Json = False,
) -> None:
    """Follow a folder back to what it was made from: models, corpora, article ids and licences."""
    from biomistral.reporting import lineage as ancestry

    node = ancestry.lineage(folder)
    problems = ancestry.problems(node) if verify else []
    data = ancestry.as_data(node, with_documents=documents) | ({"problems": problems} if verify else {})
    _emit(data, ancestry.render(node, with_documents=documents, with_check=verify), as_json)
    if problems:
        raise UserError(f"{folder}: {len(problems)} files differ from their manifests, the first: {problems[0]}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine has, what each stage can do here, and what would be downloaded."""
    from biomistral.doctor import examine, render

    findings = examine()
    _emit(findings, render(findings), as_json)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own bars would fight with ours
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.simplefilter("ignore", FutureWarning)  # libraries' deprecations are for us to see, in the tests
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # whoever imports peft is told which kernels it lacks
    logging.getLogger("biomistral").setLevel(logging.INFO if ranks.leads() else logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupt)
    app()


if __name__ == "__main__":
    main()
