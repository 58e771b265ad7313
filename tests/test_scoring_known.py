"""Engines and tokenizers read from what was written down of them, beside those that `transformers` made; and no `transformers`
then."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from biomistral.files import cache_folder
from biomistral.models import tokens
from biomistral.models.load import load_model, load_tokenizer
from biomistral.models.tokens import KeptTokenizer, open_tokenizer
from biomistral.records import Question, write_questions
from biomistral.scoring.engine import Engine
from biomistral.scoring.lean import known
from biomistral.scoring.lean.engine import LeanEngine
from biomistral.scoring.lean.known import open_engine
from biomistral.scoring.lean.taking import engine_for
from scoring_items import items
from test_evaluate_bad_input import TOKENIZERS
from test_scoring_lean import LEFT, TAKEN, made, run
from tiny import TEXT, make_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, but for the compiled loops."""
    loops = cache_folder() / "loops"
    loops.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache_folder().mkdir(parents=True)
    (cache_folder() / "loops").symlink_to(loops.absolute())
    return cache_folder()


@pytest.fixture
def unloaded(monkeypatch):
    """From its call on, no model is loaded by `transformers`."""
    def refuse(*_):
        raise AssertionError("loaded by transformers")

    return lambda: monkeypatch.setattr(known, "load_model", refuse)


def opened(folder, dtype=torch.bfloat16):
    return open_engine(folder, dtype, CPU)


def saved(config, folder, dtype=torch.bfloat16):
    made(config, dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("config", TAKEN.values(), ids=TAKEN)
def test_the_second_engine_is_read_from_files_alone_and_has_the_same_bits(tmp_path, unloaded, config):
    folder, asked = saved(config, tmp_path / "m"), items(6)
    first = opened(folder)
    unloaded()
    second = opened(folder)
    taken = engine_for(load_model(folder, torch.bfloat16))
    assert run(first, asked, 11, 64) == run(second, asked, 11, 64) == run(taken, asked, 11, 64)
    assert isinstance(second, LeanEngine)
    assert (second.parameters, second.ends) == (first.parameters, first.ends) == (taken.parameters, taken.ends)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_of_other_precisions_are_rounded_as_transformers_rounds_them(tmp_path, unloaded, dtype):
    folder, asked = saved(TAKEN["qwen3"], tmp_path / "m", dtype), items(4)
    first = opened(folder)
    unloaded()
    assert run(opened(folder), asked, 11, 64) == run(first, asked, 11, 64)


def test_other_weights_are_other_answers(tmp_path, unloaded):
    """A checkpoint of the same configuration: what was written down of another is right for it."""
    folder, other = saved(TAKEN["llama"], tmp_path / "m"), tmp_path / "other"
    opened(folder)
    made(TAKEN["llama"], seed=1).save_pretrained(other)
    expected = run(engine_for(load_model(other, torch.bfloat16)), items(4), 11, 64)
    unloaded()
    assert run(opened(other), items(4), 11, 64) == expected != run(opened(folder), items(4), 11, 64)


@pytest.mark.parametrize("config", LEFT.values(), ids=LEFT)
def test_nothing_is_written_down_of_what_is_not_recognised(tmp_path, home, config):
    folder = saved(config, tmp_path / "m")
    assert type(opened(folder)) is Engine
    assert not (home / "lean").exists()


def test_float32_is_left_to_transformers(tmp_path, home):
    assert type(opened(make_model(tmp_path / "m"), torch.float32)) is Engine
    assert not (home / "lean").exists()


def test_a_head_that_config_ties_and_files_hold_twice_is_left_to_transformers(tmp_path, home):
    folder = make_model(tmp_path / "m", dtype="bfloat16", tied=True)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert run(opened(folder), items(4), 11, 64) == run(opened(folder), items(4), 11, 64)
    assert not (home / "lean").exists()


def test_another_configuration_is_asked_of_transformers_again(tmp_path, home):
    folder = saved(TAKEN["llama"], tmp_path / "m")
    opened(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.3}))
    expected = run(engine_for(load_model(folder, torch.bfloat16)), items(4), 11, 64)
    assert run(opened(folder), items(4), 11, 64) == expected
    assert len(list((home / "lean").iterdir())) == 2


def test_a_damaged_or_unwritable_note_costs_only_time(tmp_path, home, monkeypatch):
    folder = saved(TAKEN["llama"], tmp_path / "m")
    expected = run(opened(folder), items(4), 11, 64)
    note, = (home / "lean").iterdir()
    note.write_text(note.read_text()[:-40])
    assert run(opened(folder), items(4), 11, 64) == expected
    json.loads(note.read_text())
    monkeypatch.setenv("XDG_CACHE_HOME", str(note))  # a file: nothing can be written under it
    assert run(opened(folder), items(4), 11, 64) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_kept_tokenizer_is_the_one_transformers_makes(tmp_path, name, monkeypatch):
    TOKENIZERS[name].save_pretrained(tmp_path / "m")
    theirs = open_tokenizer(tmp_path / "m")
    assert type(theirs) is type(load_tokenizer(tmp_path / "m"))
    monkeypatch.setattr(tokens, "load_tokenizer", lambda _: pytest.fail("loaded by transformers"))
    kept = open_tokenizer(tmp_path / "m")
    assert isinstance(kept, KeptTokenizer)
    assert (kept.bos_token_id, kept.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    texts = [TEXT, *TEXT.split("."), "<s></s> <s>\n", "🩺\u0301 x"]
    for special in (True, False):
        ids = kept(texts, add_special_tokens=special)["input_ids"]
        assert ids == theirs(texts, add_special_tokens=special)["input_ids"]
        assert [kept.decode(own, skip_special_tokens=special) for own in ids] == [
            theirs.decode(own, skip_special_tokens=special) for own in ids]


def test_a_tokenizer_that_was_changed_is_read_again(tmp_path):
    without, with_bos, *_ = TOKENIZERS.values()
    without.save_pretrained(tmp_path)
    assert open_tokenizer(tmp_path)("heart")["input_ids"][0] != 1
    with_bos.save_pretrained(tmp_path)
    for _ in range(2):
        assert open_tokenizer(tmp_path)("heart")["input_ids"] == load_tokenizer(tmp_path)("heart")["input_ids"]
        assert open_tokenizer(tmp_path)("heart")["input_ids"][0] == 1


def test_the_second_evaluation_imports_no_transformers(tmp_path):
    folder = make_model(tmp_path / "m", dtype="bfloat16")
    questions = [Question(id=str(number), task="t", stem=f"heart {number}?", options=("lung", "liver"), answer="A")
                 for number in range(3)]
    write_questions(tmp_path / "q.parquet", questions)
    code = ("import sys; from biomistral.cli import main\n"
            "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
            "print(sorted({'transformers', 'sympy', 'numba', 'torch._dynamo'} & set(sys.modules)))")
    for out in (tmp_path / "out", tmp_path / "again"):
        command = ["evaluate", "--model", folder, "--suite", tmp_path / "q.parquet", "--out", out, "--dtype", "bfloat16",
                   "--protocols", "letters-0shot,cloze-sum"]
        said = subprocess.run([sys.executable, "-c", code, *command], check=True, text=True, stdout=subprocess.PIPE).stdout
    assert said.splitlines()[-1] == "[]"
