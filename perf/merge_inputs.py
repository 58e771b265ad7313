"""Compare what goes into a merge with mergekit 0.1.5: how it resolves parameters, aligns vocabularies and takes adapters.

    python perf/merge_inputs.py [--peer VENV] [--files N]

Random merge files (slices, modules, filters, gradients, scopes) are resolved by mergekit's own planner and by ours, value by
value. Models with different vocabularies, and a model with an adapter, are merged by both and compared row by row.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from merge_exact import PEER, peer_python
from safetensors.torch import load_file

from biomistral.errors import UserError
from biomistral.merging.catalogue import METHODS
from biomistral.merging.plan import plan_merge
from biomistral.merging.settings import MergeSettings
from biomistral.run import execute

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
LAYERS = 5
FILTERS = ("self_attn", "mlp", "q_proj", "layers.1.", "norm", "embed_tokens", "lm_head", "*", "nothing")

PLANNED_BY_PEER = """
import json, sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.architecture import get_architecture_info
from mergekit.io.tasks import LoaderCache
from mergekit.merge import _model_out_config
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
options, found = MergeOptions(), []
LoaderCache().setup(options=options)
for text in json.load(open(sys.argv[1])):
    config = MergeConfiguration.model_validate(yaml.safe_load(text))
    architecture = get_architecture_info(config, options)
    try:
        planner = MergePlanner(config, architecture, options, _model_out_config(config, architecture))
        planner._plan()
    except RuntimeError as error:
        found.append(str(error))
        continue
    found.append({weight.name: [dict(task.parameters.items()), {
        str(model): dict(values.items()) for model, values in task.input_parameters.items()}]
        for weight, task in planner._tensors})
json.dump(found, open(sys.argv[2], "w"))
"""


def random_value(chance: random.Random, boolean: bool) -> Any:
    """A scalar, a gradient, or entries with filters of either."""
    def plain() -> Any:
        one = (lambda: chance.random() < 0.5) if boolean else (lambda: round(chance.uniform(0.05, 0.95), 3))
        return [one() for _ in range(chance.randint(1, 6))] if chance.random() < 0.4 else one()

    if chance.random() < 0.5:
        return plain()
    entries = [{"filter": chance.choice(FILTERS), "value": plain()} for _ in range(chance.randint(1, 3))]
    return entries + ([{"value": plain()}] if chance.random() < 0.8 else [])


def random_file(chance: random.Random, names: list[str]) -> dict[str, Any]:
    """A merge file of the methods that take any number of models, with parameters in any scope."""
    method = chance.choice(["linear", "ties", "dare_linear", "breadcrumbs", "della_linear", "task_arithmetic", "slerp"])
    known = METHODS[method].of("merge", "input", "other")
    inner = [name for name, parameter in known.items() if parameter.of != "merge"]
    models = names[: 2 if method == "slerp" else chance.randint(2, len(names))]

    def some(among: list[str], share: float) -> dict[str, Any]:
        picked = {name: random_value(chance, known[name].type is bool) for name in among if chance.random() < share}
        return {name: value for name, value in picked.items() if name not in ("epsilon", "gamma")}

    def source(name: str, more: dict[str, Any]) -> dict[str, Any]:
        own = {} if name == names[0] and METHODS[method].base == "required" else some(inner, 0.4)
        return {"model": name, **more, "parameters": own}

    module: dict[str, Any] = {}
    if chance.random() < 0.5:
        module["models"] = [source(name, {}) for name in models]
    else:
        cut = chance.randint(1, LAYERS - 1)
        module["slices"] = [{"sources": [source(name, {"layer_range": list(span)}) for name in models],
                             "parameters": some(list(known), 0.3)} for span in ((0, cut), (cut, LAYERS))]
    file: dict[str, Any] = {"merge_method": method, "base_model": names[0], "dtype": "bfloat16",
                            "parameters": some(list(known), 0.6)}
    for name, parameter in known.items():  # what must be set, set for certain
        if parameter.required and chance.random() < 0.9:
            file["parameters"][name] = 0.5
    if "epsilon" in known:  # small enough for every density: mergekit finds others out only while it merges
        file["parameters"]["epsilon"] = 0.01
    if chance.random() < 0.3:
        return {**file, "modules": {"default": {**module, "parameters": some(list(known), 0.3)}}}
    return {**file, **module}


def compare_parameters(folder: Path, python: Path, count: int) -> dict[str, Any]:
    """How many files, tensors and values agree; the first that does not is an error."""
    from tiny import make_model

    names = [str(make_model(folder / name, layers=LAYERS, hidden=16, architecture="mistral", tied=False)) for name in "abc"]
    texts = [yaml.safe_dump(random_file(random.Random(number), names)) for number in range(count)]
    (folder / "texts.json").write_text(json.dumps(texts))
    command = [python, "-c", PLANNED_BY_PEER, folder / "texts.json", folder / "found.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"mergekit failed\n{done.stderr[-2000:]}")
    values = refused = 0
    for text, theirs in zip(texts, json.loads((folder / "found.json").read_text()), strict=True):
        (folder / "merge.yaml").write_text(text)
        try:
            plan = plan_merge(folder / "merge.yaml", {})
        except UserError as error:
            if not isinstance(theirs, str):
                raise SystemExit(f"only ours refuses: {error}\n{text}") from error
            refused += 1
            continue
        assert not isinstance(theirs, str), f"only theirs refuses: {theirs}\n{text}"
        for tensor in plan.tensors:
            shared, inputs = theirs[tensor.name]
            pairs = [(tensor.parameters, shared)] + [(source.parameters, inputs[source.model]) for source in tensor.inputs]
            for mine, others in pairs:
                assert mine == others, f"{tensor.name}: {mine} is not {others}\n{text}"
                values += len(mine)
    return {"files": count, "refused_by_both": refused, "values_that_agree": values}


def make_vocabularies(folder: Path) -> dict[str, Path]:
    """A base, a model with two chat tokens more, and one with another vocabulary in another order."""
    from transformers import AutoTokenizer

    from test_merge_vocabulary import CHAT, rotate_vocabulary
    from tiny import make_model

    sizes = {"a": 400, "b": 402, "c": 380}
    made = {name: make_model(folder / name, number, layers=2, hidden=16, vocab_size=size, dtype="bfloat16", tied=False,
                             architecture="mistral") for number, (name, size) in enumerate(sizes.items())}
    chat = AutoTokenizer.from_pretrained(made["a"])
    chat.add_special_tokens({"additional_special_tokens": CHAT})
    chat.save_pretrained(made["b"])
    rotate_vocabulary(made["c"] / "tokenizer.json", 1)
    return made


def compare_vocabularies(folder: Path, python: Path) -> dict[str, Any]:
    """For each source of tokens: do both have the same tokens, and the same row for each?"""
    from transformers import AutoTokenizer

    names, found = make_vocabularies(folder), {}
    extra = ("{source: union, tokens: {drip: {source: {kind: zero}}, <unk>: {source: {kind: model_token, model: %(b)s, token_id: "
             "7}, force: true}}, pad_to_multiple_of: 64}")
    for case, tokenizer in (("base", "{source: base}"), ("union", "{source: union}"), ("model", "{source: %(c)s}"),
                            ("tokens", extra)):
        config = folder / f"{case}.yaml"
        config.write_text(("merge_method: linear\nmodels: [{model: %(a)s, parameters: {weight: 0.3}}, {model: %(b)s, parameters: "
                           "{weight: 0.5}}, {model: %(c)s, parameters: {weight: 0.4}}]\nbase_model: %(a)s\ndtype: bfloat16\n"
                           f"tokenizer: {tokenizer}\n") % names)
        ours, theirs = both(folder, python, config, case)
        ids = [AutoTokenizer.from_pretrained(place).get_vocab() for place in (ours, theirs)]
        weights = [load_file(place / "model.safetensors") for place in (ours, theirs)]
        assert ids[0].keys() == ids[1].keys(), f"{case}: {sorted(ids[0].keys() ^ ids[1].keys())[:5]}"
        same = {name: sum(weights[0][name][ids[0][token]].equal(weights[1][name][ids[1][token]]) for token in ids[0])
                for name in ("model.embed_tokens.weight", "lm_head.weight")}
        found[case] = {"tokens": len(ids[0]), "rows": [len(one["lm_head.weight"]) for one in weights], "rows_that_agree": same}
    return found


def compare_adapter(folder: Path, python: Path) -> dict[str, Any]:
    """A merge with ``MODEL+ADAPTER``, which mergekit first makes a model of."""
    from test_merge_adapters import make_adapter
    from tiny import make_model

    base = make_model(folder / "m", layers=2, hidden=96, dtype="bfloat16", tied=False, architecture="mistral")
    adapter, found = make_adapter(base, folder / "l"), {}
    for method in ("task_arithmetic", "ties"):
        config = folder / f"{method}.yaml"
        config.write_text(f"merge_method: {method}\nmodels: [{{model: {base}+{adapter}, parameters: {{weight: 0.7}}}}]\n"
                          f"base_model: {base}\ndtype: bfloat16\n")
        first, second = (load_file(place / "model.safetensors") for place in both(folder, python, config, method))
        found[method] = {"tensors": len(first), "tensors_that_agree": sum(first[name].equal(second[name]) for name in first)}
    return found


def both(folder: Path, python: Path, config: Path, case: str) -> tuple[Path, Path]:
    """The merge by ours and by mergekit."""
    ours, theirs = folder / f"ours-{case}", folder / f"theirs-{case}"
    execute(MergeSettings(config=str(config)), ours)
    command = [python.with_name("mergekit-yaml"), config, theirs, "--quiet", "--no-write-model-card", "--lora-merge-cache",
               folder / "cache"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case}: mergekit failed\n{done.stderr[-2000:]}")
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, default=Path(tempfile.gettempdir()) / "venv-mergekit")
    parser.add_argument("--files", type=int, default=300)
    arguments = parser.parse_args()
    python, results = peer_python(arguments.peer), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, work in (("vocabularies", compare_vocabularies), ("adapters", compare_adapter)):
            (folder / part).mkdir()
            results[part] = work(folder / part, python)
            print(json.dumps({part: results[part]}), flush=True)
        (folder / "parameters").mkdir()
        results["parameters"] = compare_parameters(folder / "parameters", python, arguments.files)
        print(json.dumps({"parameters": results["parameters"]}), flush=True)
    out = Path(__file__).with_name("results") / "merge_inputs.json"
    out.write_text(json.dumps({"peer": PEER, "torch": torch.__version__, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
