"""mergekit files: what they mean for each tensor, and what is refused, with its line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from biomistral.errors import UserError
from biomistral.merging.catalogue import DEFAULT
from biomistral.merging.describe import describe, needs
from biomistral.merging.floats import Float
from biomistral.merging.parameters import Rule
from biomistral.merging.plan import Plan, plan_merge
from biomistral.merging.planned import PlannedTensor
from biomistral.merging.settings import MergeSettings
from merge_arrays import TIES, make_pair
from tiny import make_model

RECIPES = Path(__file__).parents[1] / "recipes" / "merges"
BASE, MEDICAL = "mistralai/Mistral-7B-Instruct-v0.1", "BioMistral/BioMistral-7B"
SLERP = """merge_method: slerp
slices:
  - sources:
      - {model: A, layer_range: [0, 4]}
      - {model: B, layer_range: [0, 4]}
base_model: A
parameters:
  t: 0.5
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_pair(tmp_path_factory.mktemp("models"))


def write(folder: Path, text: str) -> Path:
    path = folder / "merge.yaml"
    path.write_text(text)
    return path


def plan(folder: Path, text: str, models: dict[str, Path], **options: Any) -> Plan:
    return plan_merge(write(folder, text), models, **options)


def by_name(plan: Plan) -> dict[str, PlannedTensor]:
    return {tensor.name: tensor for tensor in plan.tensors}


# ---- what a file means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), [("dare", "dare_ties"), ("ties", "ties"), ("slerp", "slerp")])
def test_the_published_files(models: dict[str, Path], name: str, method: str) -> None:
    made = plan_merge(RECIPES / f"{name}.yaml", {BASE: models["A"], MEDICAL: models["B"]}, fit_layers=True)
    assert {tensor.method for tensor in made.tensors} == {method}
    assert {tensor.dtype for tensor in made.tensors} == {Float.BF16}
    assert [source.model for source in made.tensors[0].inputs] == [BASE, MEDICAL]
    if name == "slerp":
        assert made.fitted == {"from": [0, 32], "to": [0, 4]}
    else:
        assert made.tensors[5].inputs[1].parameters == {"weight": 0.5, "density": 0.5}
        assert made.tensors[5].parameters["normalize"] is (name == "ties")


def test_the_published_slerp_gradient(models: dict[str, Path]) -> None:
    """Four layers lie at positions 0, 1/3, 2/3, 1 of a five-point gradient: worked by hand."""
    made = by_name(plan_merge(RECIPES / "slerp.yaml", {BASE: models["A"], MEDICAL: models["B"]}, fit_layers=True))
    attention = [made[f"model.layers.{layer}.self_attn.q_proj.weight"].parameters["t"] for layer in range(4)]
    assert attention == pytest.approx([0, 0.5 * 2 / 3 + 0.3 / 3, 0.3 / 3 + 0.7 * 2 / 3, 1])
    mlp = [made[f"model.layers.{layer}.mlp.up_proj.weight"].parameters["t"] for layer in range(4)]
    assert mlp == pytest.approx([1, 0.5 * 2 / 3 + 0.7 / 3, 0.7 / 3 + 0.3 * 2 / 3, 0])
    assert made["model.layers.2.input_layernorm.weight"].parameters["t"] == 0.5


def test_embeddings_norm_and_head_stand_at_the_gradients_start(tmp_path: Path) -> None:
    pair = {name: make_model(tmp_path / name, layers=3, hidden=16, tied=False) for name in "AB"}
    made = by_name(plan(tmp_path, SLERP.replace("4", "3").replace("t: 0.5", "t: [0.1, 0.5, 0.9]"), pair))
    outer = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    assert [made[name].parameters["t"] for name in outer] == [0.1] * 3
    assert [made[f"model.layers.{layer}.mlp.up_proj.weight"].parameters["t"] for layer in range(3)] == pytest.approx(
        [0.1, 0.5, 0.9])


def test_precedence_source_slice_file_and_the_first_filter(tmp_path: Path, models: dict[str, Path]) -> None:
    made = by_name(plan(tmp_path, """merge_method: linear
slices:
  - sources:
      - model: A
        layer_range: [0, 4]
        parameters:
          weight:
            - {filter: q_proj, value: 1}
            - {filter: self_attn, value: 2}
      - {model: B, layer_range: [0, 4]}
    parameters:
      weight: [{filter: mlp, value: 3}]
parameters:
  weight: 1e-1
  normalize: false
dtype: float32
out_dtype: bfloat16
""", models))
    weights = {part: [source.parameters["weight"] for source in made[f"model.layers.1.{part}.weight"].inputs]
               for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "input_layernorm")}
    assert weights == {"self_attn.q_proj": [1, 0.1], "self_attn.k_proj": [2, 0.1], "mlp.up_proj": [3, 3],
                       "input_layernorm": [0.1, 0.1]}
    tensor = made["model.norm.weight"]
    assert (tensor.dtype, tensor.out_dtype, tensor.parameters) == (Float.F32, Float.BF16, {"normalize": False})


def test_layers_are_stacked_and_filters_see_the_inputs_names(tmp_path: Path, models: dict[str, Path]) -> None:
    made = plan(tmp_path, """merge_method: passthrough
slices:
  - sources: [{model: A, layer_range: [0, 3]}]
  - sources:
      - model: B
        layer_range: [2, 4]
        parameters: {scale: [{filter: layers.2.self_attn, value: 0.5}, {value: 1}]}
""", models)
    tensors = by_name(made)
    assert made.depth == 5
    assert tensors["model.layers.3.mlp.up_proj.weight"].inputs[0].tensor == "model.layers.2.mlp.up_proj.weight"
    assert tensors["model.layers.3.self_attn.o_proj.weight"].inputs[0].parameters == {"scale": 0.5}
    assert tensors["model.layers.4.self_attn.o_proj.weight"].inputs[0].parameters == {"scale": 1}
    assert tensors["model.embed_tokens.weight"].inputs[0].model == "A"
    assert tensors["model.norm.weight"].inputs[0].model == "B"


def test_a_gradient_is_piecewise_linear_and_booleans_step() -> None:
    assert [Rule(None, (0.0, 1.0, 0.0)).at(position) for position in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 0.5, 0]
    assert [Rule(None, (True, False)).at(position) for position in (0, 0.99, 1)] == [True, True, False]


def test_the_base_joins_the_models_and_its_place_does_not_matter(tmp_path: Path, models: dict[str, Path]) -> None:
    listed = plan(tmp_path, TIES, models)
    unlisted = plan(tmp_path, TIES.replace("  - model: A\n", ""), models)
    last = plan(tmp_path, TIES.replace("  - model: A\n", "").replace("base_model", "  - model: A\nbase_model"), models)
    sources = [[source.model for source in one.tensors[3].inputs] for one in (listed, unlisted, last)]
    assert sources == [["A", "B"]] * 3


def test_names_that_are_folders_become_inputs(tmp_path: Path, models: dict[str, Path]) -> None:
    path = write(tmp_path, TIES.replace("A", str(models["A"])).replace("B", str(models["B"])))
    assert MergeSettings(config=str(path)).models == {str(folder): str(folder) for folder in models.values()}
    assert len(plan_merge(path, {}).tensors) == 38


def test_the_plan_in_words(tmp_path: Path, models: dict[str, Path]) -> None:
    made = plan(tmp_path, SLERP.replace("0.5", "[{filter: mlp, value: [0, 1]}, {filter: mpl, value: 0}, {value: 0.25}]"), models)
    text = describe(made, needs(made, DEFAULT, 2, 10**9), tmp_path)
    assert "4 x model.layers.*.mlp.up_proj.weight [32, 16] bfloat16: t 0 0.3333 0.6667 1" in text
    assert "filter 'mpl' of 't' matches no tensor" in text
    assert made.bytes_written == sum(path.nbytes for path in load_file(models["A"] / "model.safetensors").values())
    assert made.bytes_read == 2 * made.bytes_written


def test_modules_slices_and_their_methods(tmp_path: Path, models: dict[str, Path]) -> None:
    """A module's parameters come between the slice's and the file's; a slice may have a method of its own."""
    made = by_name(plan(tmp_path, """merge_method: linear
modules:
  default:
    parameters: {weight: [{filter: mlp, value: 3}]}
    slices:
      - sources: [{model: A, layer_range: [0, 2]}, {model: B, layer_range: [0, 2]}]
        parameters: {weight: [{filter: up_proj, value: 5}]}
      - merge_method: slerp
        sources: [{model: A, layer_range: [2, 4]}, {model: B, layer_range: [2, 4]}]
        parameters: {t: 0.25}
base_model: A
parameters: {weight: 1, normalize: 0}
dtype: torch.float32
""", models))
    weights = {part: made[f"model.layers.0.{part}.weight"].inputs[1].parameters["weight"]
               for part in ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj")}
    assert weights == {"mlp.up_proj": 5, "mlp.down_proj": 3, "self_attn.q_proj": 1}
    assert made["model.layers.0.mlp.up_proj.weight"].parameters == {"normalize": False}
    assert made["model.layers.3.mlp.up_proj.weight"].parameters == {"t": 0.25}
    assert [made[name].method for name in ("model.embed_tokens.weight", "model.norm.weight")] == ["linear", "slerp"]


def test_the_long_form_of_a_model(tmp_path: Path, models: dict[str, Path]) -> None:
    long = "{model: {path: B}, lora: null}"
    assert plan(tmp_path, TIES.replace("model: B", f"model: {long}"), models).merge.model_names == ["A", "B"]
    pinned = plan(tmp_path, TIES.replace("model: B", "model: {model: {path: B, revision: v1}}"),
                  {"A": models["A"], "B@v1": models["B"]})
    assert pinned.merge.model_names == ["A", "B@v1"]


def test_what_changes_nothing_is_noted(tmp_path: Path, models: dict[str, Path]) -> None:
    made = plan(tmp_path, TIES.replace("ties", "task_arithmetic") + "parameters: {int8_mask: true}\n", models)
    assert [note.partition(": ")[2] for note in made.notes] == ["'density' changes nothing in task_arithmetic"]


def test_nuslerp_with_and_without_a_base(tmp_path: Path, models: dict[str, Path]) -> None:
    three = {**models, "C": models["B"]}
    text = "merge_method: nuslerp\nmodels: [{model: B, parameters: {weight: 1}}, {model: C, parameters: {weight: 3}}]\n"
    assert [source.model for source in plan(tmp_path, text, {"B": models["A"], "C": models["B"]}).tensors[0].inputs] == ["B", "C"]
    based = plan(tmp_path, text + "base_model: A\n", three).tensors[0]
    assert [source.model for source in based.inputs] == ["A", "B", "C"]
    assert based.parameters == {"nuslerp_flatten": True, "nuslerp_row_wise": False}
    with pytest.raises(UserError, match="nuslerp needs a base model among its inputs; 'A' is not among the sources"):
        plan(tmp_path, """merge_method: nuslerp
slices: [{sources: [{model: B, layer_range: [0, 4]}, {model: C, layer_range: [0, 4]}]}]
parameters: {weight: 1}
base_model: A
""", three)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new", "message"), [
    ("t: 0.5", "tt: 0.5", r"merge.yaml:8: parameter 'tt' is unknown here; did you mean 't'"),
    ("t: 0.5", "t: high", r"merge.yaml:8: 't' = 'high': a number was expected"),
    ("t: 0.5", "t: .nan", r"merge.yaml:8: 't' = nan: a number was expected"),
    ("t: 0.5", "t: true", r"a number was expected"),
    ("t: 0.5", "t: []", r"'t' is an empty list"),
    ("t: 0.5", "t: [{filter: mlp, valeu: 1}]", r"takes entries of 'value' and 'filter'"),
    ("t: 0.5", "t: [{filter: mlp, value: 1}]", r"'t' is missing for tensor model.embed_tokens.weight"),
    ("slerp", "slurp", r"merge.yaml:1: unknown merge_method 'slurp'; did you mean 'slerp'"),
    ("slerp", "karcher", r"merge.yaml:1: merge_method 'karcher' is known to mergekit but not supported here"),
    ("slerp", "nuslerp", r"merge.yaml:3: nuslerp takes 2 model\(s\), besides the base; here are 1"),
    ("slerp", "model_stock", r"merge.yaml:3: model_stock takes at least 3 model\(s\), base included; here are 2"),
    ("slices:", "slice:", r"merge.yaml:2: unknown key 'slice'; did you mean 'slices'"),
    ("base_model: A", "base_model: C", r"model 'C' is no local folder; say where it lies"),
    ("base_model: A", "", r"slerp needs a base model among its inputs; 'base_model' is missing"),
    ("base_model: A", "base_model: A\ntokenizer_source: C", r"merge.yaml:7: tokenizer_source 'C'; known: A, B, base, union"),
    ("base_model: A", "base_model: A\ntokenizer: {source: uniom}", r"merge.yaml:7: tokenizer.source 'uniom'; did you mean"),
    ("base_model: A", "base_model: A\ntokenizer: {}\ntokenizer_source: A", r"either 'tokenizer_source' or 'tokenizer'"),
    ("base_model: A", "base_model: A\ntokenizer: {tokens: {x: {source: C}}}", r"merge.yaml:7: the row of token 'x' .* from 'C'"),
    ("base_model: A", "base_model: A\ntokenizer: {tokens: {x: {force: true}}}", r"say whose with 'source'"),
    ("base_model: A", "base_model: A\nexperts: []", r"merge.yaml:7: 'experts' is known to mergekit .*mergekit-moe"),
    ("base_model: A", "base_model: A\n---\nmerge_method: ties", r"merge.yaml:7: a second document begins: .*mergekit-mega"),
    ("base_model: A", "base_model: A\ndtype: float64", r"merge.yaml:7: dtype = 'float64'"),
    ("base_model: A", "base_model: A\ndtype: int8", r"merge.yaml:7: dtype = 'int8'"),
    ("model: B, layer_range: [0, 4]", "model: B, layer_range: [0, 3]", r"'A' gives 4 layers and 'B' 3"),
    ("model: B, layer_range: [0, 4]", "model: B, layer_range: [3, 3]", r"merge.yaml:5: .*holds no layer"),
    ("model: B", "model: A", r"names no model 'B'"),
    ("- {model: B,", "- {model: A, layer_range: [0, 4]}\n      - {model: B,", r"a model appears twice"),
    ("[0, 4]", "[0, 32]", r"merge.yaml:4: .* goes past the 4 layers of 'A'; write \[0, 4\], or set fit_layers"),
    ("model: B,", "model: B, parameters: {t: 1},", r"parameter 't' belongs to the whole merge"),
    ("model: B", "model: B+lora", r"model 'lora' is no local folder; say where it lies"),
    ("model: B", "model: B+lora+more", r"one adapter at most"),
    ("model: B,", "model: {lora: B},", r"a mapping with 'model' and"),
    ("model: B,", "model: {model: B, override_architecture: X},", r"'override_architecture' is known to mergekit"),
    ("base_model: A", "base_model: A\nmodels: [{model: A}]", r"write either 'models' or 'slices'"),
    ("t: 0.5", "t: [0.5, {value: 1}]", r"merge.yaml:8: 't' mixes numbers with entries"),
])
def test_refused_in_the_file(tmp_path: Path, models: dict[str, Path], old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, SLERP.replace(old, new), models)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("weight: 0.5, ", "", r"merge.yaml:4: parameter 'weight' is missing for tensor"),
    ("density: 0.5", "density: 1.5", r"merge.yaml:5: 'density' = 1.5 lies outside 0 to 1"),
    ("- model: A", "- {model: A, parameters: {weight: 1}}", r"merge.yaml:3: parameter 'weight' has no meaning for the base"),
    ("base_model: A", "base_model: A\nparameters: {normalize: 2}", r"'normalize' = 2: true or false was expected"),
    ("density: 0.5}", "density: 0.9}\nparameters: {epsilon: 0.2}", r"parameter 'epsilon' is unknown here"),
    ("  - model: A", "  - model: B", r"a model appears twice"),
    ("models:", "modules: {a: {models: [{model: A}]}, b: {models: [{model: A}]}}\nbase:", r"has one module|unknown key 'base'"),
    ("base_model: A", "base_model: A\nslices: [{sources: [{model: A, layer_range: [0, 1]}], residual_weight: 1}]",
     r"merge.yaml:7: 'residual_weight' is known to mergekit but not supported here"),
])
def test_refused_in_a_list_of_models(tmp_path: Path, models: dict[str, Path], old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, TIES.replace(old, new, 1), models)


def test_della_needs_room_around_its_density(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"epsilon 0.15 takes density 0.9 out of the range between 0 and 1"):
        plan(tmp_path, TIES.replace("ties", "della").replace("density: 0.5", "density: 0.9"), models)
    for density in (0, 1):
        assert plan(tmp_path, TIES.replace("ties", "della").replace("density: 0.5", f"density: {density}"), models).tensors


def test_refused_weights_that_sum_to_nothing(tmp_path: Path, models: dict[str, Path]) -> None:
    text = yaml.safe_dump({"merge_method": "linear", "models": [{"model": "A", "parameters": {"weight": 1}},
                                                                {"model": "B", "parameters": {"weight": -1}}]})
    with pytest.raises(UserError, match="sum to 0"):
        plan(tmp_path, text, models)


def test_refused_a_place_for_an_unnamed_model(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"names no model 'C'"):
        plan(tmp_path, TIES, {**models, "C": models["A"]})


def test_fit_layers_refuses_to_guess(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="fit_layers fits one slice"):
        plan(tmp_path, SLERP.replace("[0, 4]", "[2, 32]"), models, fit_layers=True)


@pytest.mark.parametrize("text", ["", "[]", "merge_method: [", "merge_method: slerp\nmerge_method: ties", "merge_method: ties"])
def test_refused_files(tmp_path: Path, models: dict[str, Path], text: str) -> None:
    with pytest.raises(UserError, match=r"merge\.yaml"):
        plan(tmp_path, text, models)
    assert MergeSettings(config=str(tmp_path / "merge.yaml")).models == {}
