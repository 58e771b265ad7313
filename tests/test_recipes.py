"""The recipes that ship: every one is sound, says what the paper says, and plans all its stages before any work."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

from biomistral import run
from biomistral.assets import locate
from biomistral.recipe import load_recipe
from biomistral.training.foresight.footprint import footprint, skeleton
from biomistral.training.settings import FinetuneSettings, PretrainSettings

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PLACEHOLDERS = ("pmc/a.xml", "general/a.jsonl", "articles/a.xml", "train.jsonl", "validation.jsonl", "benchmarks/x.json")


@pytest.fixture
def steps_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans a shipped recipe; hub models and the files a user brings are stood in for, what is embedded is real."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    for name in PLACEHOLDERS:
        path = tmp_path / "recipes" / "inputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    monkeypatch.setattr(run, "locate", lambda name: tmp_path / "recipes" / "inputs" if name.startswith("hub:") else locate(name))

    def plan(name: str, profile: str | None = None) -> dict[str, Any]:
        steps = run.plan(tmp_path / "recipes" / name, tmp_path / "out", profile)
        return {step.name: step.settings for step in steps}
    return plan


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_plans_in_every_profile(path: Path, steps_of: Any, tmp_path: Path) -> None:
    recipe, _ = load_recipe(path)
    assert recipe.name == path.stem
    for profile in (None, *recipe.profiles):
        steps = steps_of(path.name, profile)
        assert {name.partition("/")[0] for name in steps} == set(recipe.stages)
    assert not (tmp_path / "out").exists()


def test_the_paper_s_recipe_says_what_the_paper_says(steps_of: Any) -> None:
    """arXiv 2402.10373 and its released scripts; the numbers are written here a second time, not read from the recipe."""
    steps = steps_of("biomistral-7b.yaml")
    corpus, pretrain = steps["corpus"], steps["adapted"]
    assert (corpus.sequence_length, corpus.piece_words, corpus.bos, corpus.eos) == (2048, 1000, "always", "piece")
    assert (corpus.max_tokens, corpus.deduplicate, corpus.decontaminate) == (3_000_000_000, None, [])
    assert set(corpus.licences) == {"cc0", "cc-by", "cc-by-sa", "cc-by-nd"}
    off = corpus.filters.model_dump()
    assert not any(off.values()), f"a filter is on: {off}"
    assert isinstance(pretrain, PretrainSettings)
    assert (pretrain.learning_rate, pretrain.schedule, pretrain.warmup_steps) == (2e-5, "cosine", 0)
    assert (pretrain.weight_decay, pretrain.clip_norm, pretrain.epochs, pretrain.batch_sequences) == (0.01, 1.0, 1.5, 1024)
    assert pretrain.cross_document
    tuned = [settings for settings in steps.values() if isinstance(settings, FinetuneSettings)]
    assert len(tuned) == 4 * 5
    for settings in tuned:
        assert (settings.learning_rate, settings.schedule, settings.warmup_steps, settings.epochs) == (2e-5, "cosine", 0, 3)
        assert (settings.loss, settings.sequence_length, settings.batch_sequences) == ("full_text", 2048, 8)
        assert (settings.method, settings.qlora.storage) == ("qlora", "int8")
        assert (settings.form, settings.split, len(settings.tasks)) == ("letters", "train", 1)
        assert settings.train == settings.validation
        assert (settings.lora.rank, settings.lora.alpha, settings.lora.dropout, len(settings.lora.targets)) == (16, 16, 0.05, 7)
    assert (steps["quantised"].method, steps["quantised"].group_size) == ("awq", 128)
    assert {settings.tasks[0] for settings in tuned} == {"medqa_4", "medqa_5", "pubmedqa", "medmcqa"}
    asked = [task for name, settings in steps.items() if name.startswith("results-") and name.endswith("/adapted")
             for task in settings.tasks]
    assert len(asked) == len(set(asked)) == 10


def test_the_modern_recipe_differs_where_it_says(steps_of: Any) -> None:
    paper, modern = steps_of("biomistral-7b.yaml"), steps_of("biomistral-7b-modern.yaml")
    assert [source.share for source in modern["corpus"].sources] == [None, 0.01]
    assert modern["corpus"].decontaminate
    assert modern["corpus"].deduplicate == 0.8
    changed = {name for name in PretrainSettings.model_fields
               if getattr(paper["adapted"], name) != getattr(modern["adapted"], name)}
    assert changed <= {"model", "corpus", "warmup_steps", "cross_document"}
    assert modern["adapted"].warmup_steps > 0
    for name, settings in modern.items():
        if isinstance(settings, FinetuneSettings):
            assert settings.loss == "completion"
            assert {field for field in FinetuneSettings.model_fields
                    if getattr(paper[name], field) != getattr(settings, field)} <= {
                        "model", "train", "validation", "loss", "method", "qlora"}


def test_the_single_gpu_recipes_fit_the_gpu_they_name(steps_of: Any, tmp_path: Path) -> None:
    """The plan's memory at the real shapes, made without storage, leaves a tenth of the GPU (for 7B in full, a twentieth)."""
    with torch.device("meta"):
        seven = MistralForCausalLM(MistralConfig(vocab_size=32768, num_key_value_heads=8))
        three = SmolLM3ForCausalLM(SmolLM3Config())
    sizes = {model: sum(parameter.numel() for parameter in model.parameters()) for model in (seven, three)}
    assert list(sizes.values()) == [7_248_023_552, 3_075_098_624]  # what the published models have

    def planned(model: Any, settings: Any, adapter: Any = None) -> int:
        folder = tmp_path / type(model).__name__
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        return footprint(skeleton(folder, settings), settings, adapter, 2048, "cuda").training

    tuned, full = steps_of("single-gpu-lora-24gb.yaml")["tuned"], "single-gpu-full-80gb.yaml"
    assert 0.6 * 24e9 < planned(seven, tuned, tuned.lora) < 0.9 * 24e9
    assert 0.6 * 80e9 < planned(three, steps_of(full)["adapted"]) < 0.9 * 80e9
    assert 0.9 * 141e9 < planned(seven, steps_of(full, "141gb")["adapted"]) < 0.95 * 141e9
