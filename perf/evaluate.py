"""Questions a second, start-up, memory and probabilities of our evaluation beside lm-eval 0.4.13's, on a CPU.

    python perf/evaluate.py --peer-python VENV/bin/python [--rounds 3] [--questions 64] [--without-amx]

Both answer the same questions with the same prompts (MedConceptsQA, ICD-10-CM, hard; the ``letters`` protocol with 0 and 3 shots)
by the quickstart's model in bfloat16, one thread each, in processes that take turns. For lm-eval a task is written on the spot,
and its best batch size found first. Rates leave out loading; ``end to end`` is 100 questions by command, 0-shot, start-up
included. The reference is a float32 forward pass of every whole prompt alone. The limit is what the tokens that must be
computed take at the best rate of bfloat16 products in this process; beside it the rate of the very products that an evaluation
makes. Our rounds find what an evaluation writes down in the user's cache folder, which a run before them left. Written to
results/evaluate.json. ``--without-amx`` has both sides and the limit make their products by AVX-512 alone, as a processor does
that has no more, and writes results/evaluate_without_amx.json. ``--parts`` measures some and leaves the rest of the file as it
is; with ``--work`` the model, the questions and the reference are made once.

The peer's environment: ``pip install torch==2.13.0 transformers "lm-eval[hf]==0.4.13"``.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PEER = Path(__file__).parent / "peers" / "lm_eval_harness.py"
PROTOCOLS = ("letters-0shot", "letters-3shot")
BATCH_SIZES = (1, 8, 32)
PARTS = (*PROTOCOLS, "end_to_end_100")
END_TO_END = 100
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
              "TOKENIZERS_PARALLELISM": "false"}
WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "MKL_ENABLE_INSTRUCTIONS": "AVX512_E3"}


def prepare(folder: Path) -> None:
    """The model and the benchmark, where they are not yet."""
    if (folder / "questions").is_dir():
        return
    from biomistral.benchmarks.settings import BenchmarkSettings
    from biomistral.models.settings import ModelSettings
    from biomistral.recipe import Input
    from biomistral.run import execute

    execute(ModelSettings(source=Input("embedded:smollm2-135m-instruct")), folder / "model")
    execute(BenchmarkSettings(vocabularies={"ICD10CM": Input("embedded:icd10cm")}, levels=("hard",), limit=200, validation=10),
            folder / "questions")


def plan(folder: Path, protocol: str, limit: int, tokenizer: Any = None) -> list[Any]:
    from biomistral.evaluation.plan import make_plan
    from biomistral.evaluation.settings import EvaluateSettings
    from biomistral.models.load import load_tokenizer
    from biomistral.recipe import Input
    from biomistral.scoring.questions import read_benchmark

    settings = EvaluateSettings(model=Input(folder / "model"), benchmark=Input(folder / "questions"), protocols=[protocol],
                                limit=limit, shot_sets=1)
    return make_plan(read_benchmark(folder / "questions"), settings, tokenizer or load_tokenizer(folder / "model"), None).groups


def write_task(folder: Path, task: str, protocol: str, limit: int) -> None:
    """The same prompts as a task of lm-eval."""
    group, = plan(folder, protocol, limit)
    rows = [{"id": question.id, "prompt": prompt, "gold": question.answer_index}
            for question, prompt in zip(group.questions, group.prompts, strict=True)]
    place = folder / "task" / task
    place.mkdir(parents=True, exist_ok=True)
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (place / "task.yaml").write_text("\n".join([
        f"task: {task}", "dataset_path: json", "dataset_kwargs:", f"  data_files: {{test: {place / 'rows.jsonl'}}}",
        "test_split: test", "output_type: multiple_choice", 'doc_to_text: "{{prompt}}"', 'doc_to_choice: ["A", "B", "C", "D"]',
        "doc_to_target: gold", 'target_delimiter: ""', "metric_list: [{metric: acc}]", ""]), encoding="utf-8")


def ours(folder: Path, protocol: str, limit: int) -> dict[str, Any]:
    """Answer with the stage's own functions; seconds from the questions' text to rows on the disk."""
    import torch

    from biomistral.evaluation.answering import answer_all, parts_of
    from biomistral.evaluation.computing import Computer
    from biomistral.models.tokens import open_tokenizer
    from biomistral.scoring.lean.known import open_engine

    torch.set_num_threads(1)
    engine, tokenizer = open_engine(folder / "model", torch.bfloat16, torch.device("cpu")), open_tokenizer(folder / "model")
    engine.idle()
    with tempfile.TemporaryDirectory() as temporary:
        began = time.perf_counter()
        parts = parts_of(plan(folder, protocol, limit, tokenizer), engine.max_batch_tokens, (), packed=True)
        rows = list(answer_all(Path(temporary), parts, Computer(engine, tokenizer).compute, "ours"))
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "questions": len(rows), "peak_bytes": peak_bytes(),
            "answers": {row["question"]: row["probabilities"] for row in rows}}


def reference(folder: Path, protocol: str, limit: int) -> dict[str, Any]:
    """Float32, each whole prompt alone: probabilities of the letters that ours reads (with and without a space) and of those
    that lm-eval reads (without). Kept beside the model."""
    place = folder / f"reference-{protocol}-{limit}.json"
    if not place.is_file():
        place.write_text(json.dumps(computed_reference(folder, protocol, limit)))
    return dict(json.loads(place.read_text()))


def computed_reference(folder: Path, protocol: str, limit: int) -> dict[str, Any]:
    import torch

    from biomistral.models.load import load_model

    model, (group,) = load_model(folder / "model", torch.float32), plan(folder, protocol, limit)
    found: dict[str, dict[str, list[float]]] = {"summed": {}, "plain": {}}
    for item in group.items:
        with torch.inference_mode():
            last = model(torch.tensor([item.prompt]), logits_to_keep=1).logits[0, -1].double()
        for name, forms in (("summed", group.letters), ("plain", [form[:1] for form in group.letters])):
            found[name][item.id] = torch.stack([last[list(own)].logsumexp(0) for own in forms]).softmax(0).tolist()
    return found


def limits(folder: Path, questions: int) -> dict[str, float]:
    """Questions a second if only the products that are needed were computed, at the best rate of one core."""
    import torch
    from product_rates import own_rate, product_rate

    from biomistral.models.load import load_model
    from biomistral.scoring.engine import common_prefix

    torch.set_num_threads(1)
    model = load_model(folder / "model", torch.bfloat16)
    layers = sum(parameter.numel() for name, parameter in model.named_parameters() if "layers" in name and parameter.ndim == 2)
    outputs = model.get_output_embeddings().weight.numel()
    width = model.config.num_attention_heads * model.config.head_dim * model.config.num_hidden_layers
    rate = max(product_rate(rows, 576, 1536) for rows in (512, 1024, 2048, 4096))
    del model
    found = {"gemm_gflops": rate / 1e9, "own_products_gflops": own_rate(folder) / 1e9}
    for protocol in PROTOCOLS:
        group, = plan(folder, protocol, questions)
        rows = [item.prompt for item in group.items]
        shared = common_prefix(rows)
        tokens = shared + sum(len(row) - shared for row in rows)
        head = len(rows) * outputs
        attention = sum(2 * width * (len(row) ** 2 - shared ** 2) for row in rows) + 2 * width * shared ** 2
        found[protocol] = len(rows) * rate / (2 * layers * tokens + 2 * head + attention)
        found[f"{protocol}, tokens"] = sum(map(len, rows)) / len(rows)
        found[f"{protocol}, shared tokens"] = shared
    return found


def peak_bytes() -> int:
    """The most memory this process ever held, without what its parent held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def process(command: list[Any]) -> tuple[float, int]:
    """Wall seconds and peak bytes of a command."""
    began = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{command}: failed\n{said.decode()[-3000:]}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def peer(options: argparse.Namespace, folder: Path, protocol: str, batch: int, limit: int) -> dict[str, Any]:
    out = folder / "peer.json"
    process([options.peer_python, PEER, folder / "model", folder / "task" / protocol, protocol, batch, out, limit])
    return dict(json.loads(out.read_text()))


def in_own_process(name: str, *arguments: Any) -> Any:
    """A function of this file as a fresh process on one thread; arguments and result as JSON."""
    plain = json.dumps([str(one) if isinstance(one, Path) else one for one in arguments])
    said = subprocess.run([sys.executable, __file__, "--call", name, plain], env=ONE_THREAD, check=True, stdout=subprocess.PIPE)
    return json.loads(said.stdout.splitlines()[-1])


def end_to_end(options: argparse.Namespace, folder: Path, batch: int) -> dict[str, list[float]]:
    """Both commands answering 100 questions: seconds and bytes."""
    theirs = process([Path(options.peer_python).parent / "lm_eval", "--model", "hf", "--model_args",
                      f"pretrained={folder / 'model'},dtype=bfloat16", "--include_path", folder / "task" / "hundred", "--tasks",
                      "hundred",
                      "--device", "cpu", "--batch_size", batch, "--log_samples", "--output_path",
                      folder / f"theirs-{time.time_ns()}"])
    mine = process([sys.executable, "-m", "biomistral.cli", "evaluate", "--model", folder / "model", "--suite",
                    folder / "questions", "--protocols", PROTOCOLS[0], "--limit", END_TO_END, "--dtype", "bfloat16",
                    "--out", folder / f"ours-{time.time_ns()}"])
    return {"lm-eval": list(theirs), "ours": list(mine)}


def difference(found: dict[str, Any], truth: dict[str, Any]) -> float:
    """Largest difference of a letter's probability."""
    return max(abs(a - b) for name, row in found.items() for a, b in zip(row, truth[name], strict=True))


def best_batch(options: argparse.Namespace, folder: Path, protocol: str) -> int:
    rates = {batch: 1 / peer(options, folder, protocol, batch, 16)["seconds"] for batch in BATCH_SIZES}
    return max(rates, key=lambda batch: rates[batch])


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    in_own_process("prepare", folder)  # a child's peak begins at what its parent holds when it is started
    report: dict[str, Any] = {}
    if set(options.parts) < set(PARTS) and options.out.is_file():
        report |= json.loads(options.out.read_text())
    limit = in_own_process("limits", folder, options.questions)
    if report.get("questions") == options.questions and report["limit"]["gemm_gflops"] > limit["gemm_gflops"]:
        limit = report["limit"]  # what else runs on a machine only lowers it: the best that was seen counts
    how = "by AVX-512 alone" if options.without_amx else "all that the processor has"
    report |= {"machine": f"{platform.machine()}, one thread, {how}", "questions": options.questions, "limit": limit}
    write_task(folder, "hundred", PROTOCOLS[0], END_TO_END)
    for protocol in options.parts:
        if protocol in PROTOCOLS:
            write_task(folder, protocol, protocol, options.questions)
            report[protocol] = beside(options, folder, protocol, report["limit"])
    if PARTS[-1] in options.parts:
        batch = options.batch or report[PROTOCOLS[0]]["lm_eval_batch_size"]
        pairs = [end_to_end(options, folder, batch) for _ in range(options.rounds)]
        report[PARTS[-1]] = {
            "seconds": {name: statistics.median(pair[name][0] for pair in pairs) for name in pairs[0]},
            "peak_bytes": {name: statistics.median(pair[name][1] for pair in pairs) for name in pairs[0]},
            "time_ratio": statistics.median(pair["ours"][0] / pair["lm-eval"][0] for pair in pairs)}
    return report


def beside(options: argparse.Namespace, folder: Path, protocol: str, limit: dict[str, float]) -> dict[str, Any]:
    """Both sides in turns."""
    batch, rounds = options.batch or best_batch(options, folder, protocol), []
    truth = in_own_process("reference", folder, protocol, options.questions)
    for _ in range(options.rounds):
        theirs = peer(options, folder, protocol, batch, options.questions)
        mine = in_own_process("ours", folder, protocol, options.questions)
        rounds.append((theirs, mine))
        print(protocol, *(f"{one['questions'] / one['seconds']:.2f} q/s, {one['peak_bytes'] / 1e6:.0f} MB;"
                          for one in (theirs, mine)), flush=True)
    found = summary(rounds, truth, limit[protocol]) | {"lm_eval_batch_size": batch, "rounds": options.rounds}
    found["share_of_own_products"] = found["share_of_limit"] * limit["gemm_gflops"] / limit["own_products_gflops"]
    return found


def summary(rounds: list[tuple[dict[str, Any], dict[str, Any]]], truth: dict[str, Any], limit: float) -> dict[str, Any]:
    rates = [[one["questions"] / one["seconds"] for one in pair] for pair in rounds]
    ours = statistics.median(mine for _, mine in rates)
    return {"questions_per_second": {"lm-eval": statistics.median(theirs for theirs, _ in rates), "ours": ours},
            "ratio": statistics.median(mine / theirs for theirs, mine in rates),
            "peak_bytes": {name: statistics.median(pair[place]["peak_bytes"] for pair in rounds)
                           for place, name in enumerate(("lm-eval", "ours"))},
            "share_of_limit": ours / limit, "share_of_limit_in_the_best_round": max(mine for _, mine in rates) / limit,
            "largest_difference_to_float32": {
                name: difference(answers["answers"], truth[letters])
                for name, answers, letters in zip(("lm-eval", "ours"), rounds[0], ("plain", "summed"), strict=True)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of lm-eval's environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--batch", type=int, default=0, help="lm-eval's batch size; 0: the best of some is found first")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--without-amx", action="store_true", help="products by AVX-512 alone, on both sides")
    parser.add_argument("--work", type=Path, default=None, help="where to keep what is made before anything is measured")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--call", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        folder, *rest = json.loads(options.call[1])
        print(json.dumps(globals()[options.call[0]](Path(folder), *rest)))
        return
    options.out = options.out or RESULTS / ("evaluate_without_amx.json" if options.without_amx else "evaluate.json")
    ONE_THREAD.update(WITHOUT_AMX if options.without_amx else {})
    with tempfile.TemporaryDirectory() as temporary:
        text = json.dumps(measure(options, options.work or Path(temporary)), indent=1)
    print(text)
    options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
