"""The commands. Heavy imports stay inside them (--help under 0.5 s)."""

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
import typer.core

from biomistral import __version__, ranks
from biomistral.benchmarks.settings import Suite
from biomistral.cli.chat import chat_command
from biomistral.cli.common import (
    COMMON,
    REQUESTS,
    Cache,
    Device,
    Executor,
    IgnoreMemory,
    Json,
    LogTo,
    TranslationCache,
    Workers,
    add_stage,
    emit,
    machine,
    parameter,
    requests_in,
    run_stage,
    with_options,
)
from biomistral.cli.corpus import corpus_app
from biomistral.cli.merge import merge_app
from biomistral.cli.papers import card_command, export_command, publish_command
from biomistral.cli.quantize import add_quantize
from biomistral.errors import UserError
from biomistral.recipe import StageSettings
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


app = typer.Typer(name="biomistral", cls=_Group, pretty_exceptions_enable=False, no_args_is_help=True,
                  add_completion=False, rich_markup_mode=None,
                  help="Turn an open language model into a medical one, and prove what it got.",
                  epilog="Begin with: biomistral doctor; biomistral run recipes/quickstart.yaml")
benchmark_app = typer.Typer(no_args_is_help=True, help="Build question sets.")
results_app = typer.Typer(no_args_is_help=True, help="Bring in results that others measured, and write ours in their forms.")
model_app = typer.Typer(no_args_is_help=True, help="Bring models into the form the stages read, and choose among them.")
app.add_typer(model_app, name="model")
app.add_typer(merge_app, name="merge")
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(corpus_app, name="corpus")
app.add_typer(results_app, name="results")


def _run_evaluations(several: list[StageSettings], out: Path, **common: Any) -> None:
    """One results folder a model: ``out`` itself for one, ``out/MODEL`` for several; then their scores as a table."""
    common["requests"] = requests_in(common)
    suite = several[0].benchmark  # type: ignore[attr-defined]
    if suite in get_args(Suite) and not Path(suite).exists():
        files = "" if suite == "medconceptsqa" else "--files FILES "
        raise UserError(f"--suite {suite}: no such folder; make it once with: "
                        f"biomistral benchmark build {suite} {files}--out {suite}")
    if len(several) == 1:
        run_stage(several[0], out, **common)
        _show_scores([out], common["as_json"])
        return
    names = [getattr(settings, "name", "") or Path(str(settings.model)).name for settings in several]  # type: ignore[attr-defined]
    if len(set(names)) < len(names):
        raise UserError(f"--model: two models are called the same ({', '.join(names)}); evaluate them one by one with --name")
    for name, settings in zip(names, several, strict=True):
        run_stage(settings, out / name, **common)
    _show_scores([out / name for name in names], common["as_json"])


def _show_scores(folders: list[Path], as_json: bool) -> None:
    if as_json or not ranks.leads():
        return
    from biomistral.reporting import table

    print(f"\n{table.render(table.read(folders), table.ranks_of(folders))}")


def _run_report(settings: StageSettings, out: Path, **common: Any) -> None:
    run_stage(settings, out, **common)
    if not common["as_json"]:
        print(f"open {(out / 'index.html').absolute().as_uri()}")


def _run_translation(settings: StageSettings, out: Path, **common: Any) -> None:
    common["requests"] = requests_in(common)
    run_stage(settings, out, **common)
    if not common["as_json"]:
        print(f"to review: {(out / 'review.html').absolute().as_uri()}")


def run_command(
    recipe: Annotated[Path, typer.Argument(help="recipe file, e.g. recipes/quickstart.yaml")],
    out: Annotated[Path | None, typer.Option("--out", help="folder of the run (default: runs/NAME)")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="one of the recipe's profiles, e.g. smoke")] = None,
    start: Annotated[str | None, typer.Option("--from", help="make this stage and all after it again")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be made, reused, resumed; do nothing")] = False,
    device: Device = "auto", workers: Workers = 0, log_to: LogTo = (), as_json: Json = False,  # type: ignore[assignment]
    ignore_memory: IgnoreMemory = False, **requests: Any,
) -> None:
    """Run a recipe's stages in order: what is fresh is reused, what was cut off resumes."""
    from biomistral.run import run_recipe

    rows = run_recipe(recipe, out, profile=profile, start=start, dry_run=dry_run,
                      machine=machine(device=device, workers=workers, log_to=log_to, ignore_memory=ignore_memory,
                                      requests=requests))
    lines = [f"{row['state']:8} {row['stage']:24} {row['kind']:10} {row['key'][:12]}  {row['folder']}" for row in rows]
    findings = [finding for row in rows for finding in row.get("findings", [])]
    lines += ["", *findings] if findings else []
    pages = [] if dry_run else [Path(row["folder"]) / "index.html" for row in rows if row["kind"] == "report"]
    lines += [f"\nThe leaderboard page: {page.as_uri()}" for page in pages]
    emit(rows, "\n".join(lines), as_json)


app.command("run")(with_options(run_command, REQUESTS))
app.command("chat")(chat_command)
app.command("card")(card_command)
app.command("publish")(publish_command)
add_stage(model_app, "import", "model")
add_stage(benchmark_app, "build", "benchmark")
add_stage(benchmark_app, "import", "questions")
_TRAINING = [*COMMON, parameter("log_to", LogTo, ()), parameter("ignore_memory", IgnoreMemory, False)]
add_stage(benchmark_app, "translate", "translate", _run_translation,
          common=[*COMMON, parameter("cache", TranslationCache, ""), *REQUESTS])
add_stage(app, "pretrain", "pretrain", common=_TRAINING)
add_stage(app, "finetune", "finetune", common=_TRAINING)
add_quantize(app)
add_stage(app, "evaluate", "evaluate", _run_evaluations, {"benchmark": ("--suite", "--benchmark"), "model": ("--model",)},
          "model", [*COMMON, parameter("executor", Executor, "local"), parameter("cache", Cache, ""), *REQUESTS])
add_stage(model_app, "select", "select")
add_stage(app, "report", "report", _run_report)
add_stage(results_app, "import", "reported")
results_app.command("export")(export_command)


@benchmark_app.command("list")
def benchmark_list(as_json: Json = False) -> None:
    """The suites that can be built: their tasks, questions of each split, licences and papers."""
    from biomistral.benchmarks.published import listing

    rows = listing.known()
    emit(rows, listing.render(rows), as_json)


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
    emit(found.as_data(), preview.render(found, sys.stdout.isatty(), too_long), as_json)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="results folder of the baseline")],
    others: Annotated[list[Path], typer.Argument(help="results folders of the models compared with it")], as_json: Json = False,
) -> None:
    """Compare models with a baseline on the same questions: paired differences with intervals and exact McNemar tests, corrected
    for their number (Holm)."""
    from biomistral.reporting import compare as comparison

    rows = comparison.compare(first, others)
    emit(rows, comparison.render(rows), as_json)


@app.command()
def ensemble(
    folders: Annotated[list[Path], typer.Argument(help="results folders of two or more models; one will do for --permutations")],
    permutations: Annotated[bool, typer.Option("--permutations", help=(
        "a question's permutations (evaluate --permutations N) answer together too: self-consistency"))] = False,
    by: Annotated[Literal["probability", "mass", "vote"], typer.Option("--by", help=(
        "add up the options' probabilities, those before they were renormalised (as the original), or votes (of answers in words "
        "too)"))] = "probability",
    as_json: Json = False,
) -> None:
    """Several models as one, or one model's answers to permuted options, from recorded answers: no model is run."""
    from biomistral.reporting import ensemble as together

    found = together.ensemble(folders, permutations, by)
    emit(found, together.render(found), as_json)


@app.command()
def contamination(
    results: Annotated[Path, typer.Argument(help="results folder of a model")],
    corpus: Annotated[Path, typer.Option("--corpus", help="corpus folder it was trained on, or any other")],
    suite: Annotated[Path | None, typer.Option("--suite", help="the benchmark that was asked, where it does not lie there any "
                                               "more")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="file (.json) to write it to, for 'report --contamination'")] = None,
    as_json: Json = False,
) -> None:
    """Which questions stand in a corpus, and the scores with and without them, from recorded answers: no model is run."""
    from biomistral import contamination as overlap
    from biomistral.files import write_json

    found = overlap.contamination(results, corpus, suite)
    if out is not None:
        write_json(out, found)
    emit(found, overlap.render(found), as_json)


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
    emit(data, ancestry.render(node, with_documents=documents, with_check=verify), as_json)
    if problems:
        raise UserError(f"{folder}: {len(problems)} files differ from their manifests, the first: {problems[0]}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine has, what each stage can do here, and what would be downloaded."""
    from biomistral.doctor import examine, render

    findings = examine()
    emit(findings, render(findings), as_json)


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
