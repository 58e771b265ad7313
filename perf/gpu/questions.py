"""Questions a second at Mistral 7B's shape on one GPU, 0-shot and 3-shot, beside lm-eval at its best batch size.

    python perf/gpu/questions.py [--peer-python VENV/bin/python] [--questions 256] [--base FOLDER]
    python perf/gpu/questions.py --tiny              the same on a CPU in a minute, to see that it works; writes nothing

Weights are random, in bfloat16; questions are made up of random words, about 100 tokens each, behind them three shots of as many.
Both sides answer the same prompts in processes that take turns, the first answer left out; lm-eval tries several batch sizes,
ours several budgets of tokens, and each side's best counts. Probabilities are compared with a float32 pass of each whole prompt
alone. To reach: 3-shot at least 3 times lm-eval's questions a second. Written to results/gpu_questions.json.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from evaluate import PEER, PROTOCOLS, difference, plan, write_task
from pretrain import MISTRAL_7B, TINY

from biomistral.records import Question, read_questions, write_questions

RESULTS = Path(__file__).parents[1] / "results" / "gpu_questions.json"
BATCH_SIZES = (8, 32, 64, 128)
BUDGETS = (16_384, 32_768, 65_536)
SHOTS, COMPARED = 20, 24
INSTRUCTION = "The following are multiple choice questions (with answers) about medical knowledge.\n\n**Question:** **Answer:**("
SYLLABLES = ("car", "di", "o", "hep", "at", "neph", "ro", "my", "el", "osis", "itis", "al", "gia", "em", "ia", "path", "y", "ton",
             "us", "phle", "bo", "thromb", "cyt", "hem", "ur", "pne", "um")


def make_questions(folder: Path, count: int) -> None:
    """Questions of made-up words, and shots."""
    draw = random.Random(0)

    def words(number: int) -> str:
        return " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(2, 3))) for _ in range(number))

    write_questions(folder / "questions", (
        Question(id=f"q{number}", task="made", split="test" if number < count else "train",
                 stem=f"What is the description of {words(6)}?", options=tuple(words(draw.randint(2, 6)) for _ in "ABCD"),
                 answer="ABCD"[number % 4]) for number in range(count + SHOTS)))


def make_tokenizer(model: Path, questions: Path) -> None:
    """A tokenizer of so few tokens that a tiny model has them too, trained on the questions: about two tokens a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = (part for question in read_questions(questions) for part in (question.stem, *question.options, INSTRUCTION))
    trainer = trainers.BpeTrainer(vocab_size=TINY["vocab_size"], special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(text, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.save_pretrained(model)


def make_base(folder: Path, shape: dict[str, Any], device: str) -> None:
    """Random weights in bfloat16, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        MistralForCausalLM._from_config(MistralConfig(**shape), dtype=torch.bfloat16).save_pretrained(folder)


def timed(engine: Any, tokenizer: Any, groups: list[Any]) -> dict[str, Any]:
    """Answer a protocol's questions by the stage's own functions; seconds from their tokens to rows on the disk."""
    from biomistral.evaluation.answering import answer_all, parts_of
    from biomistral.evaluation.computing import Computer
    from biomistral.scoring.engine import is_packed

    parts = parts_of(groups, engine.max_batch_tokens, (), packed=is_packed(engine.dtype, engine.device))
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        rows = list(answer_all(Path(place), parts, Computer(engine, tokenizer).compute, "ours"))
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "questions": len(rows), "budget": engine.max_batch_tokens,
            "answers": {row["question"]: row["probabilities"] for row in rows}}


def ours(folder: Path, device: str, count: int, out: Path) -> None:
    """Each protocol's best budget, and the float32 probabilities of the first questions; a process of its own."""
    from biomistral.models.load import load_tokenizer
    from biomistral.scoring.lean.known import open_engine

    tokenizer = load_tokenizer(folder / "model")
    engine = open_engine(folder / "model", torch.bfloat16, torch.device(device))
    groups = {protocol: plan(folder, protocol, count, tokenizer) for protocol in PROTOCOLS}
    found: dict[str, Any] = {}
    for protocol, asked in groups.items():
        runs = []
        for budget in (engine.max_batch_tokens,) if device == "cpu" else (BUDGETS[0], *BUDGETS):  # the first warms up
            engine.max_batch_tokens = budget
            runs.append(timed(engine, tokenizer, asked))
            print(protocol, budget, runs[-1]["seconds"], flush=True)
        found[protocol] = min(runs[1:] or runs, key=lambda one: float(one["seconds"]))
        found[protocol] |= {"peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
                            "tokens": sum(len(item.prompt) for item in asked[0].items) / count}
    del engine
    found["exact"] = {protocol: exact(folder, device, asked[0]) for protocol, asked in groups.items()}
    out.write_text(json.dumps(found))


def exact(folder: Path, device: str, group: Any) -> dict[str, Any]:
    """Float32 probabilities of the letters as ours reads them (with and without a space) and as lm-eval does (without)."""
    from biomistral.models.load import load_model

    model = load_model(folder / "model", torch.float32, torch.device(device))
    found: dict[str, dict[str, list[float]]] = {"summed": {}, "plain": {}}
    for item in group.items[:COMPARED]:
        with torch.inference_mode():
            last = model(torch.tensor([item.prompt], device=device), logits_to_keep=1).logits[0, -1].double()
        for name, forms in (("summed", group.letters), ("plain", [form[:1] for form in group.letters])):
            found[name][item.id] = torch.stack([last[list(own)].logsumexp(0) for own in forms]).softmax(0).tolist()
    return found


def summary(mine: dict[str, Any], theirs: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    rates = {"lm-eval": theirs["questions"] / theirs["seconds"], "ours": mine["questions"] / mine["seconds"]}
    return {"questions_per_second": rates, "ratio": rates["ours"] / rates["lm-eval"], "tokens_a_question": mine["tokens"],
            "batch_size_of_lm_eval": theirs["batch_size"], "budget_of_ours": mine["budget"],
            "peak_gb": {"lm-eval": theirs["peak_bytes"] / 1e9, "ours": mine["peak_bytes"] / 1e9},
            "largest_difference_to_float32": {
                name: difference({one: side["answers"][one] for one in truth[letters]}, truth[letters])
                for name, side, letters in (("lm-eval", theirs, "plain"), ("ours", mine, "summed"))}}


def measure(folder: Path, device: str, options: argparse.Namespace) -> dict[str, Any]:
    shape = TINY if device == "cpu" else MISTRAL_7B
    count, batch_sizes = (6, "2") if device == "cpu" else (options.questions, ",".join(map(str, BATCH_SIZES)))
    make_questions(folder, count)
    if options.base:
        options.base.mkdir(parents=True, exist_ok=True)
        (folder / "model").symlink_to(options.base.absolute(), target_is_directory=True)
    if not (folder / "model" / "config.json").is_file():
        subprocess.run([sys.executable, __file__, "--make", folder / "model", device, json.dumps(shape)], check=True)
    make_tokenizer(folder / "model", folder / "questions")
    for protocol in PROTOCOLS:
        write_task(folder, protocol, protocol, count)
    subprocess.run([sys.executable, __file__, "--ours", folder, device, str(count), folder / "ours.json"], check=True)
    mine = json.loads((folder / "ours.json").read_text())
    peer = [options.peer_python or sys.executable, PEER, folder / "model", folder / "task"]
    subprocess.run([*peer, ",".join(PROTOCOLS), batch_sizes, folder / "theirs.json", str(count), device], check=True)
    theirs = json.loads((folder / "theirs.json").read_text())
    return {protocol: summary(mine[protocol], theirs[protocol], mine["exact"][protocol]) for protocol in PROTOCOLS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of lm-eval's environment; this one's, if it is not given")
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--base", type=Path, help="a folder for the model, which stays; used again if it is there")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--ours", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make_base(Path(options.make[0]), json.loads(options.make[2]), options.make[1])
        return
    if options.ours:
        folder, device, count, out = options.ours
        ours(Path(folder), device, int(count), Path(out))
        return
    with tempfile.TemporaryDirectory() as name:
        report = measure(Path(name), "cpu" if options.tiny else "cuda", options)
    print(json.dumps(report, indent=1))
    if not options.tiny:
        report["machine"] = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
