"""Translation by models of this machine: pico models with random weights, against plain one-by-one generation."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
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


SMALL = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
         "encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.3}
LONG = " ".join(WORDS[:8] * 5)


def pieces(path):
    """A sentencepiece model of the words; its pieces."""
    spm = pytest.importorskip("sentencepiece")
    lines = (" ".join(WORDS[number % 12:] + WORDS[:number % 7]) for number in range(300))
    spm.SentencePieceTrainer.train(sentence_iterator=lines, model_prefix=str(path), vocab_size=60, hard_vocab_limit=False,
                                   bos_id=-1, eos_id=1, unk_id=0, minloglevel=2)
    found = spm.SentencePieceProcessor(model_file=f"{path}.model")
    return [found.id_to_piece(number) for number in range(found.get_piece_size())]


def nllb(folder, **changes):
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(set("".join(WORDS))), "▁"]
    tokenizer = NllbTokenizer(vocab={word: number for number, word in enumerate(names)}, merges=[])
    model = m2m_model(len(tokenizer), **changes)
    languages = set(range(len(names), len(tokenizer))) - {tokenizer.convert_tokens_to_ids("por_Latn")}
    model.generation_config.suppress_tokens = [0, 1, 2, 3, *languages]  # it speaks in letters,
    model.generation_config.no_repeat_ngram_size = 2  # and does not stay at one
    return tokenizer, model, ("eng_Latn", "por_Latn")


def m2m_model(size, **changes):
    return M2M100ForConditionalGeneration(M2M100Config(vocab_size=size, pad_token_id=1, eos_token_id=2, bos_token_id=0,
                                                       decoder_start_token_id=2, **SMALL, **changes))


def m2m(folder):
    found = pieces(folder / "spm")
    names = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *found])
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(names)}))
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "spm.model"))
    return tokenizer, m2m_model(len(names) + 110), ("en", "__pt__")


def marian(folder):
    names = list(dict.fromkeys(["</s>", "<unk>", *pieces(folder / "spm"), "<pad>"]))
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(names)}))
    spm, pad = str(folder / "spm.model"), len(names) - 1
    tokenizer = MarianTokenizer(spm, spm, str(folder / "vocab.json"), source_lang="en", target_lang="pt")
    return tokenizer, MarianMTModel(MarianConfig(vocab_size=len(names), pad_token_id=pad, eos_token_id=0, forced_eos_token_id=0,
                                                 decoder_start_token_id=pad, **SMALL)), None


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("made", [nllb, m2m, marian])
def test_a_text_is_translated_as_if_it_were_alone_whatever_stands_beside_it(home, made, beams):
    (home / "model").mkdir()
    torch.manual_seed(1)
    tokenizer, model, languages = made(home / "model")
    model.generation_config.num_beams = beams
    tokenizer.save_pretrained(home / "model")
    model.save_pretrained(home / "model")
    asked = (*OPTIONS[:2], LONG)
    write_questions(home / "bench.parquet", [Question(id="q1", task="t", stem="which nerve ?", options=asked, answer="A")])
    translate(home, home / "model")
    expected, more = [], {}
    model.eval().generation_config.forced_eos_token_id = None
    if languages:
        tokenizer.src_lang = languages[0]
        more = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(languages[1])}
        assert more["forced_bos_token_id"] != tokenizer.unk_token_id
    for text in ("which nerve ?", *asked):
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        most = min(32 * -(-tokens.shape[1] // 16) + 20, 512)
        expected.append(tokenizer.decode(model.generate(tokens, **more, do_sample=False, max_new_tokens=most)[0],
                                         skip_special_tokens=True).strip())
    assert texts(home) == expected
    row, = read_rows(home / "pt" / "needs_review.parquet")
    assert "cut_off" in {reason["check"] for reason in row["reasons"]}, "a model without an end is told so, not ended by force"


def long_text(kind):
    """A text, and the pieces in which a model that reads 128 tokens (here: letters) is to be given it."""
    sentences = [f"{first} nerve passes the {last} skull" + "?" * (number % 2 + 1) for number, (first, last) in enumerate(
        [("which", "facial"), ("qual", "optic"), ("the", "vagus"), ("optic", "which"), ("facial", "qual")])]
    clauses = [f"{word} nerve passes the skull the vagus the optic the facial nerve," for word in WORDS[:8]]
    words = [" ".join(WORDS[number % 8] for number in range(start, start + 40)) for start in (0, 3)]
    return {
        "8,000 words in sentences": (" ".join(sentences * 270), sentences * 270),
        "a sentence of clauses": (" ".join(clauses), clauses),
        "a sentence without clauses": (" ".join(words), None),
        "a word": ("skull" * 60, None),
    }[kind]


@pytest.mark.parametrize("kind", ["8,000 words in sentences", "a sentence of clauses", "a sentence without clauses", "a word"])
def test_a_long_context_goes_in_pieces_that_the_model_reads_whole(home, kind, monkeypatch):
    (home / "model").mkdir()
    torch.manual_seed(1)
    tokenizer, model, _ = nllb(home / "model", max_position_embeddings=128)
    tokenizer.save_pretrained(home / "model")
    model.eval().save_pretrained(home / "model")
    context, pieces = long_text(kind)
    write_questions(home / "bench.parquet", [Question(id="q1", task="t", stem="which nerve ?", options=OPTIONS[:2], answer="A",
                                                      context=context)])
    given = []
    generate = M2M100ForConditionalGeneration.generate

    def seen(self, input_ids, attention_mask, **more):
        given.extend(row[mask.bool()] for row, mask in zip(input_ids, attention_mask, strict=True))
        return generate(self, input_ids=input_ids, attention_mask=attention_mask, **more)

    monkeypatch.setattr(M2M100ForConditionalGeneration, "generate", seen)
    translate(home, home / "model")
    assert max(map(len, given)) <= 128
    row, = read_rows(home / "pt" / "needs_review.parquet")
    found = row["fields"][-1]["translation"]
    if pieces is None:
        read = [tokenizer.decode(one, skip_special_tokens=True).replace(" ", "") for one in given if len(one) > 30]
        assert sorted("".join(read)) == sorted(context.replace(" ", ""))
        return
    assert len(context.split()) >= 8000 or "," in context
    tokenizer.src_lang, answers = "eng_Latn", {}
    for piece in dict.fromkeys(pieces):
        tokens = tokenizer(piece, return_tensors="pt")["input_ids"]
        made = generate(model, tokens, forced_bos_token_id=tokenizer.convert_tokens_to_ids("por_Latn"), do_sample=False,
                        max_new_tokens=min(32 * -(-tokens.shape[1] // 16) + 20, 128))
        answers[piece] = tokenizer.decode(made[0], skip_special_tokens=True).strip()
    assert len(set(answers.values())) > 2
    assert found == " ".join(answers[piece] for piece in pieces)


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
    (home / "madlad" / "tokenizer_config.json").write_text('{"tokenizer_class": "M2M100Tokenizer"}')
    with pytest.raises(UserError, match=r"an M2M100, on which .* converter fails .* this one with --engine transformers"):
        translate(home, home / "madlad", engine="ctranslate2", seed=2)


@pytest.mark.parametrize("made", [nllb, marian])  # the converter fails on M2M100's tokenizer of transformers 5
def test_converted_models_are_told_the_languages_and_answer_as_if_asked_one_by_one(home, made):
    ctranslate2 = pytest.importorskip("ctranslate2")
    from ctranslate2.converters import TransformersConverter

    (home / "model").mkdir()
    torch.manual_seed(1)
    tokenizer, model, languages = made(home / "model")
    tokenizer.save_pretrained(home / "model")
    model.save_pretrained(home / "model")
    files = [path.name for path in (home / "model").iterdir() if path.suffix in (".json", ".model", ".spm")
             and path.name not in ("config.json", "generation_config.json")]
    TransformersConverter(str(home / "model"), copy_files=files).convert(str(home / "ct"))
    translate(home, home / "ct", engine="ctranslate2")
    direct = ctranslate2.Translator(str(home / "ct"), device="cpu")
    if languages:
        tokenizer.src_lang = languages[0]
    expected = []
    for text in ("which nerve passes the skull ?", *OPTIONS):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        found = direct.translate_batch([tokens], target_prefix=[[languages[1]]] if languages else None, max_decoding_length=512)
        ids = tokenizer.convert_tokens_to_ids(found[0].hypotheses[0][bool(languages):])
        expected.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    assert [one[:60] for one in texts(home)] == [one[:60] for one in expected]
