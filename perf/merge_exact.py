"""Compare our merges with mergekit 0.1.5's, bit by bit, on pico checkpoints.

    python perf/merge_exact.py [--peer VENV] [--work DIR]

mergekit runs in a virtual environment of its own (made there if it is missing). Methods without chance go through both front
doors, with mergekit's sorts made stable. For DARE and DELLA, mergekit's own arithmetic is given our uniform numbers, since its
draws depend on shared state.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from biomistral.merging.catalogue import METHODS
from biomistral.merging.draws import dare_mask
from biomistral.merging.plan import plan_merge
from biomistral.merging.scalars import dare_density, uniform_bits
from biomistral.merging.settings import MergeSettings
from biomistral.run import execute
from biomistral.seeds import seed

PEER = "mergekit==0.1.5"
MODELS = ("a", "b", "c")
TASK = """models:
  - {model: %(a)s}
  - {model: %(b)s, parameters: {weight: 0.3, density: 0.37}}
  - {model: %(c)s, parameters: {weight: 0.55, density: 0.62}}
base_model: %(a)s
dtype: %(dtype)s
"""
STOCK = "models: [{model: %(a)s}, {model: %(b)s}, {model: %(c)s}]\nbase_model: %(a)s\ndtype: %(dtype)s\n"
PAIR = ("models: [{model: %(b)s, parameters: {weight: 0.3}}, {model: %(c)s, parameters: {weight: [0.2, 0.9]}}]\n"
        "dtype: %(dtype)s\n")
FIRST = "{model: %(a)s, parameters: {weight: 0.3}}, "
THREE = (f"models: [{FIRST}{{model: %(b)s, parameters: {{weight: 0.5}}}}, {{model: %(c)s, parameters: {{weight: [0.2, 0.9]}}}}]\n"
         "dtype: %(dtype)s\n")
FILES = {
    "linear": "merge_method: linear\nmodels: [{model: %(a)s, parameters: {weight: 0.3}}, {model: %(b)s, parameters: {weight: "
              "0.55}}, {model: %(c)s, parameters: {weight: [0.1, 0.9]}}]\ndtype: %(dtype)s\n",
    "slerp": "merge_method: slerp\nslices: [{sources: [{model: %(a)s, layer_range: [0, 4]}, {model: %(b)s, layer_range: [0, "
             "4]}]}]\nbase_model: %(a)s\nparameters: {t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, "
             "value: [1, 0.5, 0.7, 0.3, 0]}, {value: 0.5}]}\ndtype: %(dtype)s\n",
    "task_arithmetic": ("merge_method: task_arithmetic\n" + TASK).replace(", density: 0.37", "").replace(", density: 0.62", ""),
    "task_arithmetic_normalized": ("merge_method: task_arithmetic\nparameters: {normalize: true, lambda: 0.8}\n" + TASK)
    .replace(", density: 0.37", "").replace(", density: 0.62", ""),
    "ties": "merge_method: ties\nparameters: {normalize: true, int8_mask: true}\n" + TASK,
    "ties_rescaled": "merge_method: ties\nparameters: {normalize: false, rescale: true, lambda: 1.2}\n" + TASK,
    "dare_ties": "merge_method: dare_ties\nparameters: {int8_mask: true}\n" + TASK,
    "dare_linear": "merge_method: dare_linear\n" + TASK,
    "task_arithmetic_of_three": ("merge_method: task_arithmetic\nparameters: {lambda: 0.8}\n" + TASK),
    "breadcrumbs": "merge_method: breadcrumbs\nparameters: {gamma: 0.05}\n" + TASK,
    "breadcrumbs_ties": "merge_method: breadcrumbs_ties\nparameters: {rescale: true, gamma: 0.5}\n" + TASK,
    "della": "merge_method: della\nparameters: {epsilon: 0.2}\n" + TASK,
    "della_linear": "merge_method: della_linear\nparameters: {epsilon: 0.2}\n" + TASK,
    "model_stock": "merge_method: model_stock\n" + STOCK,
    "model_stock_filter_wise": "merge_method: model_stock\nparameters: {filter_wise: true}\n" + STOCK,
    "nuslerp": "merge_method: nuslerp\n" + PAIR,
    "nuslerp_from_a_base": "merge_method: nuslerp\nbase_model: %(a)s\n" + PAIR,
    "nuslerp_rows": "merge_method: nuslerp\nbase_model: %(a)s\nparameters: {nuslerp_flatten: false}\n" + PAIR,
    "nuslerp_columns": "merge_method: nuslerp\nbase_model: %(a)s\nparameters: {nuslerp_flatten: false, "
                       "nuslerp_row_wise: true}\n" + PAIR,
    "multislerp": "merge_method: multislerp\n" + THREE,
    "multislerp_from_a_base": "merge_method: multislerp\nbase_model: %(a)s\n" + THREE.replace(FIRST, ""),
    "nearswap": "merge_method: nearswap\nmodels: [{model: %(a)s}, {model: %(b)s}]\nbase_model: %(a)s\nparameters: {t: 0.01}\n"
                "dtype: %(dtype)s\n",
    "ram": "merge_method: ram\nparameters: {epsilon: 0.02}\n" + STOCK,
    "sce": "merge_method: sce\n" + STOCK,
    "sce_selected": "merge_method: sce\nparameters: {select_topk: 0.3}\n" + STOCK,
    "passthrough": "merge_method: passthrough\nslices: [{sources: [{model: %(a)s, layer_range: [0, 3]}]}, {sources: [{model: "
                   "%(b)s, layer_range: [2, 4], parameters: {scale: [{filter: o_proj, value: 0.5}, {value: 1.0}]}}]}]\n"
                   "dtype: %(dtype)s\n",
}

CHANCE_IN_PEER = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from mergekit import merge_methods
from mergekit.merge_methods.base import TensorGroup, PerInputValues
job = json.load(open(sys.argv[1]))
argsort = torch.argsort
torch.argsort = lambda *args, **kwargs: argsort(*args, **{**kwargs, "stable": True})
models = {name: load_file(path) for name, path in job["models"].items()}
numbers, out = load_file(job["numbers"]), {}
for name, base in models["a"].items():
    queue = [numbers[f"{model}/{name}"] for model in ("b", "c")]
    torch.bernoulli = lambda p: (queue.pop(0).view(p.shape) < (p.double() * 2**32).round()).to(p.dtype)
    group = TensorGroup.from_tensors([models[m][name] for m in ("a", "b", "c")], ids=["a", "b", "c"], base_index=0, name=name)
    per = lambda values: PerInputValues(list(zip(("b", "c"), values)))
    more = {"epsilon": per([0.2, 0.2])} if job["method"].startswith("della") else {}
    out[name] = merge_methods.get(job["method"]).merge_group(group, weight=per([0.3, 0.55]), density=per([0.37, 0.62]),
        int8_mask=False, normalize=job["method"] == "della", rescale=True, **{"lambda": 1.0}, **more)
save_file(out, job["out"])
"""

STABLE_IN_PEER = """
import functools, sys, torch
for name in ("argsort", "sort"):
    setattr(torch, name, functools.partial(getattr(torch, name), stable=True))
torch.topk = lambda values, k, largest: [order[:k] for order in torch.sort(values, descending=largest)]
from mergekit.scripts.run_yaml import main
main(sys.argv[1:])
"""
"""mergekit leaves open which of equal magnitudes it keeps; with a stable sort it keeps the first ones, as we do."""


def peer_python(folder: Path) -> Path:
    """The interpreter of the environment that holds mergekit."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "mergekit-yaml").is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
    return python


def make_models(folder: Path, dtype: str) -> dict[str, Path]:
    """A pico model and two that moved away from it a little, so that both slerp and lerp occur."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig  # noqa: F401

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from tiny import make_model

    found = {"a": make_model(folder / "a", layers=4, hidden=64, dtype=dtype, architecture="mistral", tied=False)}
    base = load_file(found["a"] / "model.safetensors")
    for number, name in enumerate(MODELS[1:], 1):
        found[name] = make_model(folder / name, layers=4, hidden=64, dtype=dtype, architecture="mistral", tied=False)
        generator = torch.Generator().manual_seed(number)
        moved = {key: (tensor.float() + 0.02 * number * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
                 for key, tensor in base.items()}
        save_file(moved, found[name] / "model.safetensors", metadata={"format": "pt"})
    return found


def save_numbers(config: Path, path: Path) -> None:
    """The uniform numbers of 32 bits that decide our masks, for every tensor and model; where only the mask is known, the
    lowest and one that is too large."""
    numbers = {}
    for tensor in plan_merge(config, {}).tensors:
        for position, source in enumerate(tensor.inputs[1:]):
            key = seed(0, "dare", tensor.name, position)
            if METHODS[tensor.method].thins == "random":
                mask: np.ndarray = np.empty(tensor.numel, np.uint8)
                dare_mask(key, 0, dare_density(source.parameters["density"], tensor.dtype), mask)
                bits = np.where(mask, 0, 2**32)
            else:
                bits = uniform_bits(key, 0, tensor.numel).astype("int64")
            numbers[f"{Path(source.model).name}/{tensor.name}"] = torch.from_numpy(bits)
    save_file(numbers, path)


def compare(ours: Path, theirs: Path) -> dict[str, float]:
    """Share of elements that are equal, and the largest distance: in units in the last place (which are small where base and
    task vector cancel), and relative to the tensor's largest element."""
    first, second = load_file(ours), load_file(theirs)
    assert first.keys() == second.keys(), sorted(first.keys() ^ second.keys())
    equal = total = farthest = tensors = 0
    largest = 0.0
    for name, tensor in first.items():
        other = second[name]
        assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype), name
        distance = (tensor.double() - other.double()).abs().max() / other.double().abs().max()
        largest = max(largest, float(distance))
        integer = torch.int32 if tensor.dtype == torch.float32 else torch.int16
        bits = [torch.where(one.view(integer) < 0, -(one.view(integer).long() & (2**31 - 1 if integer == torch.int32 else 32767)),
                            one.view(integer).long()) for one in (tensor, other)]
        same = bits[0] == bits[1]
        equal, total = equal + int(same.sum()), total + same.numel()
        farthest, tensors = max(farthest, int((bits[0] - bits[1]).abs().max())), tensors + (not bool(same.all()))
    return {"equal": equal / total, "max_ulp": farthest,
            "max_relative_to_largest": largest, "tensors_that_differ": tensors, "tensors": len(first)}


def run(folder: Path, python: Path, dtype: str, methods: list[str]) -> dict[str, dict[str, float]]:
    """Every method at one dtype."""
    models, found = make_models(folder, dtype), {}
    names = {name: str(path) for name, path in models.items()} | {"dtype": dtype}
    for name in methods:
        config = folder / f"{name}.yaml"
        config.write_text(FILES[name] % names)
        execute(MergeSettings(config=str(config)), folder / f"ours-{name}")
        theirs = folder / f"theirs-{name}"
        theirs.mkdir(exist_ok=True)
        if name.startswith(("dare", "della")):
            save_numbers(config, folder / "numbers.safetensors")
            job = {"models": {key: str(path / "model.safetensors") for key, path in models.items()}, "method": name,
                   "numbers": str(folder / "numbers.safetensors"), "out": str(theirs / "model.safetensors")}
            (folder / "job.json").write_text(json.dumps(job))
            command = [python, "-c", CHANCE_IN_PEER, folder / "job.json"]
        elif name.startswith(("ties", "breadcrumbs", "sce")):
            command = [python, "-c", STABLE_IN_PEER, config, theirs, "--quiet", "--no-write-model-card"]
        else:
            command = [python.with_name("mergekit-yaml"), config, theirs, "--quiet", "--no-write-model-card"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: mergekit failed\n{done.stderr[-2000:]}")
        found[name] = compare(folder / f"ours-{name}" / "model.safetensors", theirs / "model.safetensors")
        print(f"{dtype:9} {name:27} equal {found[name]['equal']:.6f}  largest distance {found[name]['max_ulp']} ulp, "
              f"{found[name]['max_relative_to_largest']:.1e} of the largest  ("
              f"{found[name]['tensors_that_differ']} of {found[name]['tensors']} tensors differ)", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, default=Path(tempfile.gettempdir()) / "venv-mergekit")
    parser.add_argument("--methods", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32", "float16"])
    arguments = parser.parse_args()
    python, results = peer_python(arguments.peer), {}
    for dtype in arguments.dtypes:
        with tempfile.TemporaryDirectory() as folder:
            results[dtype] = run(Path(folder), python, dtype, arguments.methods)
    if arguments.methods != list(FILES):
        return
    out = Path(__file__).with_name("results") / "merge_exact.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"peer": PEER, "torch": torch.__version__, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
