"""From an archive of JATS articles to packed tokens: our corpus stage beside pubmed_parser + datatrove MinHash + tokenizers.

    python perf/corpus.py [ARCHIVE.tar.gz] [--tokenizer FOLDER] [--benchmark FOLDER] [--repeats N] [--peer VENV]

Both read the same archive, with one worker and one thread, interleaved; CPU seconds are user and system time with all
children, less those of the archive's first article alone: what is paid once (imports, tokenizers, spaCy) says nothing about
a large corpus, and is reported apart. Ours are measured in a process that has built a corpus before. Every licence passes on
our side, so that no article leaves before the costly steps. Ours does more: licence, language, quality filters,
decontamination against a benchmark, attribution, packing and statistics, none of which the peer's chain has.

Without an archive, the PLOS articles that a package of the registry embeds are taken. The profile attributes the CPU time
of one more build to the innermost file of biomistral on the stack, by a timer of CPU time.
"""

import argparse
import io
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections import Counter
from pathlib import Path
from typing import Any

PEER = ("pubmed_parser==0.5.1", "datatrove[processing]==0.10.1", "spacy==3.8.18", "orjson", "tokenizers==0.23.3", "lxml")
CHAIN = Path(__file__).parent / "peers" / "corpus_chain.py"
RESULTS = Path(__file__).parent / "results" / "corpus.json"
LICENCES = ("cc0", "cc-by", "cc-by-sa", "cc-by-nd", "cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "ARROW_NUM_THREADS", "MKL_NUM_THREADS"), "1")
TICK = 0.002
STEPS = {
    "read the archive": ("tar", "streams", "sources", "archives", "filelists", "listing", "record_files", "article_sets"),
    "parse, text": ("jats", "jats_text", "mathematics", "citations"), "licence, notices": ("licences", "notices"),
    "language": ("language",), "filters": ("filters", "repetition"), "words, shingles": ("shingles",),
    "copies": ("dedup", "copies", "ledger"), "decontaminate": ("decontaminate", "question_index", "gram_table"),
    "tokenise": ("pieces", "encoder"), "choose, pack": ("select", "fill", "draws", "pack", "token_store"),
    "statistics page": ("numbers", "tallies", "page"), "rows, parts": ("screen", "gather", "build", "executor", "memory"),
    "hash, manifest": ("artifact", "files", "records"),
}
OTHER = "start-up, other files"
"""Step -> files of the package that do it. The time of other files is mostly that of imports and of loading the tokenizer."""


# ---- inputs ---------------------------------------------------------------------------------------------------------


def embedded_articles(folder: Path) -> Path:
    """An archive of the PLOS articles that allofplos embeds."""
    from biomistral.assets import locate

    archive = folder / "plos.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        for file in sorted(locate("embedded:plos").glob("*.xml")):
            tar.add(file, file.name)
    return archive


def tokenizer_folder(name: str, folder: Path) -> Path:
    """A folder with tokenizer.json, of a model folder or of a GGUF file."""
    from biomistral.assets import locate
    from biomistral.models.gguf import read_fields
    from biomistral.models.gguf_tokenizer import bpe_tokenizer

    path = locate(name)
    if path.is_dir():
        return path
    bpe_tokenizer(read_fields(path), str(path)).save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def made_benchmark(folder: Path, questions: int = 600) -> Path:
    """Questions of random words, as long as those of medical examinations: stem 80 words, some with a context of 200."""
    from biomistral.records import Question, write_questions

    draw = random.Random(0)
    syllables = ["car", "di", "o", "neph", "ri", "tis", "gly", "co", "sis", "my", "al", "gia", "the", "of", "an", "pa", "tient"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(4000)]
    rows = [Question(id=f"q{number}", task=f"task{number % 6}", stem=" ".join(draw.choices(words, k=80)), answer="A",
                     options=tuple(" ".join(draw.choices(words, k=9)) + f" {letter}" for letter in "abcd"),
                     context=" ".join(draw.choices(words, k=200)) if number % 3 == 0 else None) for number in range(questions)]
    (folder / "benchmark").mkdir()
    write_questions(folder / "benchmark" / "questions.parquet", rows)
    return folder / "benchmark"


def first_article(archive: Path, folder: Path) -> tuple[Path, int, int]:
    """An archive of the first article alone; and the articles and bytes of XML in the whole one."""
    small, articles, size = folder / "first.tar.gz", 0, 0
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith((".xml", ".nxml")):
                articles, size = articles + 1, size + member.size
                if articles == 1:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    with tarfile.open(small, "w:gz") as out:
                        out.addfile(member, io.BytesIO(stream.read()))
    return small, articles, size


# ---- both sides -----------------------------------------------------------------------------------------------------


def measured(command: list[Any], log: Path) -> tuple[str, float, float]:
    """Run a command: its standard output, CPU seconds with its children, and peak resident memory in MB."""
    with log.open("w+") as out, log.with_suffix(".err").open("w+") as errors:
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=errors, env=os.environ | ONE_THREAD)
        _, status, use = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{command[1:4]} failed:\n{errors.read()[-3000:]}")
        return out.read(), use.ru_utime + use.ru_stime, use.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def ours(archive: Path, first: Path, tokenizer: Path, benchmark: Path, folder: Path) -> dict[str, Any]:
    """One build of the whole archive in a process that has built one before."""
    job = {"archive": str(archive), "first": str(first), "tokenizer": str(tokenizer), "benchmark": str(benchmark)}
    (folder / "job.json").write_text(json.dumps(job))
    printed, _, peak = measured([sys.executable, __file__, "--job", folder / "job.json"], folder / "ours.log")
    return {**json.loads(printed.splitlines()[-1]), "peak_mb": peak}


def command_line(archive: Path, tokenizer: Path, benchmark: Path, folder: Path) -> dict[str, float]:
    """CPU seconds and peak memory of ``biomistral corpus build`` as a user runs it."""
    licences = [part for name in LICENCES for part in ("--licences", name)]
    command = [sys.executable, "-m", "biomistral.cli", "corpus", "build", archive, "--tokenizer", tokenizer, "--decontaminate",
               benchmark, *licences, "--workers", 1, "--out", folder / f"command-{archive.name}"]
    _, seconds, peak = measured(command, folder / "command.log")
    return {"cpu_seconds": round(seconds, 2), "peak_mb": round(peak)}


def build(archive: str, job: dict[str, str], out: Path) -> dict[str, Any]:
    """Build a corpus of an archive in this process; returns the manifest's counts."""
    from biomistral.corpus.settings import CorpusSettings
    from biomistral.recipe import Machine
    from biomistral.run import execute

    settings = CorpusSettings.model_validate({"sources": [archive], "tokenizer": job["tokenizer"], "licences": LICENCES,
                                              "decontaminate": [job["benchmark"]]})
    counts: dict[str, Any] = execute(settings, out, Machine(workers=1)).manifest["counts"]
    return counts


def run_job(path: Path) -> None:
    """In a process of its own: warm up, time one article and the whole, then build once more under the profile."""
    job, seconds = json.loads(path.read_text()), {}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, archive in (("warm", "first"), ("first", "first"), ("archive", "archive")):
            start = time.process_time()
            counts = build(job[archive], job, Path(folder) / name)
            seconds[name] = time.process_time() - start
        steps = profile(job, Path(folder) / "profiled")
    print(json.dumps({"once": seconds["first"], "seconds": seconds["archive"] - seconds["first"], "steps": steps,
                      "documents": counts["documents"], "tokens": counts["tokens"], "left_out": counts["refused"]}))


def theirs(archive: Path, first: Path, tokenizer: Path, python: Path, folder: Path) -> dict[str, Any]:
    """One run of the chain over the whole archive, and one over its first article."""
    runs = []
    for number, tar in enumerate((first, archive)):
        (folder / f"chain{number}").mkdir()
        command = [python, CHAIN, tar, tokenizer / "tokenizer.json", folder / f"chain{number}"]
        printed, seconds, peak = measured(command, folder / "chain.log")
        runs.append((json.loads(printed), seconds, peak))
    (small, once, _), (large, whole, peak) = runs
    steps = {name: seconds - small["seconds"][name] for name, seconds in large["seconds"].items()}
    return {"once": once, "seconds": whole - once, "steps": steps, "documents": large["kept"], "tokens": large["tokens"],
            "left_out": large["raised"], "versions": large["versions"], "peak_mb": peak}


def peer_python(folder: Path) -> Path:
    """The interpreter of the environment that holds the chain."""
    python = folder / "bin" / "python"
    if not list(folder.glob("lib/python*/site-packages/datatrove")):
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)
    return python


# ---- our profile ----------------------------------------------------------------------------------------------------


class Profile:
    """CPU time by the innermost file of biomistral on the stack.

    The time since the last tick goes to where the program is now. A tick during a call into C is handled when the call
    returns, in the function that called, so that its whole time goes there.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = time.process_time()
        self._names: dict[str, str | None] = {}

    def _tick(self, _: int, frame: Any) -> None:
        now = time.process_time()
        while frame is not None and not (name := self._name(frame.f_code.co_filename)):
            frame = frame.f_back
        self.seconds[name if frame is not None else "python"] += now - self._last
        self._last = time.process_time()

    def _name(self, file: str) -> str | None:
        if file not in self._names:
            self._names[file] = Path(file).stem if "biomistral" in Path(file).parts else None
        return self._names[file]

    def __enter__(self) -> "Profile":
        self._last = time.process_time()
        signal.signal(signal.SIGPROF, self._tick)
        signal.setitimer(signal.ITIMER_PROF, TICK, TICK)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def profile(job: dict[str, str], out: Path) -> dict[str, float]:
    """Seconds of each step of a build in this process."""
    with Profile() as found:
        build(job["archive"], job, out)
    step_of = {file: step for step, files in STEPS.items() for file in files}
    seconds: Counter[str] = Counter()
    for file, spent in found.seconds.items():
        seconds[step_of.get(file, OTHER)] += spent
    return {step: round(seconds[step], 3) for step in (*STEPS, OTHER)}


# ---- report ---------------------------------------------------------------------------------------------------------


def table(title: str, seconds: dict[str, float], size: float) -> None:
    print(f"\n{title:34} CPU s   ms a MB of XML")
    for name, spent in seconds.items():
        print(f"  {name:30} {spent:7.2f} {1000 * spent / size:10.1f}")
    total = sum(seconds.values())
    print(f"  {'in all':30} {total:7.2f} {1000 * total / size:10.1f}   {size / total:6.2f} MB/s of XML", flush=True)


def compared(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    archive = (arguments.archive or embedded_articles(folder)).resolve()
    tokenizer = tokenizer_folder(arguments.tokenizer, folder)
    benchmark = arguments.benchmark.resolve() if arguments.benchmark else made_benchmark(folder)
    first, articles, size_bytes = first_article(archive, folder)
    size, python, runs = size_bytes / 1e6, peer_python(arguments.peer), []
    print(f"{articles} articles, {size:.1f} MB of XML, one worker, one thread", flush=True)
    for number in range(arguments.repeats):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            mine = ours(archive, first, tokenizer, benchmark, Path(place))
            peer = theirs(archive, first, tokenizer, python, Path(place))
        runs.append({"ours": mine, "peer": peer, "ratio": peer["seconds"] / mine["seconds"]})
        print(f"run {number + 1}: ours {size / mine['seconds']:.2f} MB/s, peer {size / peer['seconds']:.2f} MB/s, ratio "
              f"{runs[-1]['ratio']:.1f}", flush=True)
    found: dict[str, Any] = {
        "articles": articles, "xml_mb": round(size, 1), "ratio": round(statistics.median(run["ratio"] for run in runs), 2),
        "ratios": [round(run["ratio"], 2) for run in runs], "peer_versions": runs[0]["peer"]["versions"],
        "machine": f"{platform.machine()}, Python {platform.python_version()}"}
    for side in ("ours", "peer"):
        mine = [run[side] for run in runs]
        middle = {name: statistics.median(run[name] for run in mine) for name in ("seconds", "once", "peak_mb")}
        found[side] = {
            "mb_per_second": round(size / middle["seconds"], 2), "cpu_seconds": round(middle["seconds"], 2),
            "cpu_seconds_paid_once": round(middle["once"], 2), "peak_mb": round(middle["peak_mb"]),
            **{name: mine[0][name] for name in ("documents", "tokens", "left_out")},
            "steps": {name: round(statistics.median(run["steps"][name] for run in mine), 3) for name in mine[0]["steps"]}}
    found["ours"] |= {"command_line": command_line(archive, tokenizer, benchmark, folder),
                      "command_line_one_article": command_line(first, tokenizer, benchmark, folder)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, nargs="?", help=".tar.gz of JATS articles")
    parser.add_argument("--tokenizer", default="embedded:smollm2-135m-instruct", help="model folder or embedded:NAME")
    parser.add_argument("--benchmark", type=Path, help="benchmark folder, or a file of questions; default: 600 made ones")
    parser.add_argument("--repeats", type=int, default=3)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--peer", type=Path, default=cache / "biomistral" / "peers" / "corpus", help="environment of the peers")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_job(arguments.job)
        return
    os.environ.update(ONE_THREAD)
    with tempfile.TemporaryDirectory() as folder:
        found = compared(arguments, Path(folder))
    mine, peer = found["ours"], found["peer"]
    table("ours, with what is paid once", mine["steps"], found["xml_mb"])
    table("pubmed_parser, datatrove, tokenizers", peer["steps"], found["xml_mb"])
    whole, one = mine["command_line"], mine["command_line_one_article"]
    print(f"\nours {mine['mb_per_second']} MB/s, peer {peer['mb_per_second']} MB/s: ratio {found['ratio']}\n"
          f"the command line takes {whole['cpu_seconds']} s and {whole['peak_mb']} MB of memory, for one article "
          f"{one['cpu_seconds']} s and {one['peak_mb']} MB; the peer takes {peer['peak_mb']} MB")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
