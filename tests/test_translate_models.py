"""Translation by models of this machine: pico models with random weights, against plain one-by-one generation."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from biomistral.cli import main  # noqa: F401  (the whole command line imports)
from biomistral.errors import UserError
from biomistral.recipe import Machine
from biomistral.records import Question, read_rows, write_questions
from biomistral.run import execute
from biomistral.translation.settings import TranslateSettings
from tiny import make_model

WORDS = ["which", "nerve", "passes", "the", "skull", "facial", "vagus", "optic", "?", "qual", "nervo", "crânio"]
OPTIONS = ("the facial nerve", "the vagus nerve", "the optic nerve the skull")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    question = Question(id="q1", task="t", stem="which nerve passes the skull ?", options=OPTIONS, answer="A")
    write_questions(tmp_path / "bench.parquet", [question])
    return tmp_path


def translate(home, model, **changes):
    settings = TranslateSettings(**{"engine": "transformers", "model": str(model), "benchmark": str(home / "bench.parquet"),
                                    "to": "pt", "back_translation": False, **changes})
    return execute(settings, home / "pt", Machine(device="cpu", overwrite=True))


def texts(home):
    """What came of each option, sound or not."""
    reviewed = [field["translation"] for row in read_rows(home / "pt" / "needs_review.parquet") for field in row["fields"]]
    return reviewed or [text for row in read_rows(home / "pt" / "questions.parquet") for text in (row["stem"], *row["options"])]


def t5(folder, special):
    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                                decoder_start_token_id=0, pad_token_id=0, eos_token_id=1))
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.6)
    model.save_pretrained(folder)
    return fast, model.eval()


def test_madlad_is_told_the_language_and_answers_as_if_asked_one_by_one(home):
    tokenizer, model = t5(home / "madlad", ["<2en>", "<2pt>"])
    artifact = translate(home, home / "madlad")
    expected = []
    for text in ("which nerve passes the skull ?", *OPTIONS):
        tokens = tokenizer(f"<2pt> {text}", return_tensors="pt")["input_ids"]
        made = model.generate(tokens, do_sample=False, max_new_tokens=2 * 8 + 20)
        expected.append(tokenizer.decode(made[0], skip_special_tokens=True))
    shared = [len(one.split()) for one in expected]
    assert [one[:40] for one in texts(home)] == [one[:40] for one in expected], shared
    assert artifact.manifest["facts"]["translation"]["engines"][0]["content"]


def test_a_model_that_names_no_languages_is_refused_in_a_line(home):
    t5(home / "t5", [])
    with pytest.raises(UserError, match="without tokens for languages"):
        translate(home, home / "t5")


def test_a_language_that_the_model_has_not_is_refused_in_a_line(home):
    t5(home / "madlad", ["<2en>", "<2pt>"])
    with pytest.raises(UserError, match="does not translate from 'en' to 'fi'"):
        translate(home, home / "madlad", to="fi")


def test_nllb_begins_its_answer_with_the_language(home):
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(set("".join(WORDS))), "▁"]
    tokenizer = NllbTokenizer(vocab={word: number for number, word in enumerate(names)}, merges=[])
    tokenizer.save_pretrained(home / "nllb")
    asked = tokenizer.convert_tokens_to_ids("por_Latn")
    model = M2M100ForConditionalGeneration(M2M100Config(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2))
    model.save_pretrained(home / "nllb")
    translate(home, home / "nllb")
    assert len(texts(home)) == 4
    assert asked != tokenizer.unk_token_id


def test_a_chat_model_is_asked_through_its_template_and_its_words_are_faults(home):
    artifact = translate(home, make_model(home / "chat"), attempts=2)
    row, = read_rows(home / "pt" / "needs_review.parquet")
    assert {reason["check"] for reason in row["reasons"]} & {"not_json", "cut_off"}
    assert row["attempts"] == 2
    assert artifact.manifest["facts"]["translation"]["engines"][0]["prompt"]


def test_a_folder_without_a_model_and_one_without_template_are_refused_in_a_line(home):
    (home / "empty").mkdir()
    (home / "empty" / "x").write_text("x")
    with pytest.raises(UserError, match=r"no config\.json"):
        translate(home, home / "empty")
    folder = make_model(home / "plain")
    for file in folder.glob("*.jinja"):
        file.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no chat template"):
        translate(home, folder)


def test_a_converted_model_is_asked_by_ctranslate2(home):
    pytest.importorskip("ctranslate2")
    from ctranslate2.converters import TransformersConverter

    t5(home / "madlad", ["<2en>", "<2pt>"])
    TransformersConverter(str(home / "madlad"), copy_files=["tokenizer.json", "tokenizer_config.json"]).convert(str(home / "ct"))
    artifact = translate(home, home / "ct", engine="ctranslate2")
    assert all(word in WORDS for text in texts(home) for word in text.split())
    assert artifact.manifest["facts"]["translation"]["engines"][0]["engine"] == "ctranslate2"
    with pytest.raises(UserError, match=r"no model\.bin"):
        translate(home, home / "madlad", engine="ctranslate2", seed=1)
