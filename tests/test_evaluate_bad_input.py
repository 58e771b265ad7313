"""`biomistral evaluate` on tokenizers, questions and models that are not as usual: exactly right, or refused in one line."""

import json
import math
import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.models.load import load_model, load_tokenizer
from biomistral.records import Question, read_rows, write_questions
from biomistral.scoring.engine import Prefix
from biomistral.scoring.prompts import PROTOCOLS, build_messages, build_prompt, choose_shots
from biomistral.scoring.score import Item, score_letters
from tiny import make_model

PROTOCOL_NAMES = ["letters-0shot", "letters-3shot", "medconceptsqa-0shot", "chat-0shot", "cloze-sum"]


def make_questions():
    return [Question(id=f"q{number}", task="t", split="dev" if number < 3 else "test",
                     stem=f"What is {'heart ' * number}E{number}?", options=("fever", "acute cough", "pain")[: 2 + number % 2],
                     answer="AB"[number % 2]) for number in range(7)]


def byte_level(merges, bos):
    """A byte-level tokenizer with these merges and no others; ``bos``: it has one, and puts it in front of every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<unk>", "<s>", "</s>", *alphabet, *("".join(pair) for pair in merges)]
    inner = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if bos:
        inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    has = {"unk_token": "<unk>", "eos_token": "</s>", **({"bos_token": "<s>"} if bos else {})}
    found = PreTrainedTokenizerFast(tokenizer_object=inner, **has)
    start = "<s>" if bos else ""
    found.chat_template = start + "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}answer:"
    return found


SPACED = [("Ġ", letter) for letter in "ABC"]
TOKENIZERS = {
    "without BOS": byte_level(SPACED, bos=False),
    "BOS, and a template that has it too": byte_level(SPACED, bos=True),
    "a letter behind a space is two tokens": byte_level([], bos=False),
    "the bracket merges with a letter behind it": byte_level([*SPACED, *(("(", letter) for letter in "ABC")], bos=True),
}


@pytest.fixture(scope="module")
def pico(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("bad") / "pico", vocab_size=500, tied=False)


@pytest.fixture
def place(tmp_path):
    write_questions(tmp_path / "q.parquet", make_questions())
    return tmp_path


def with_tokenizer(pico, folder, tokenizer):
    model = load_model(pico, torch.float32)
    model.config.max_position_embeddings = 4096
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """Run ``biomistral evaluate`` in this process; its exit code and the lines on stderr."""
    def run(model, questions, out, *arguments):
        monkeypatch.setattr(sys, "argv", ["biomistral", "evaluate", "--model", str(model), "--suite", str(questions), "--out",
                                          str(out), "--dtype", "float32", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err.strip().splitlines()

    return run


def plain(model, tokenizer, row, question, shots):
    """Probabilities of the options by one forward pass a text, and the mass of the letters; only the prompt's words are ours."""
    protocol = PROTOCOLS[row["protocol"]]
    text = (tokenizer.apply_chat_template(build_messages(question, shots, protocol), tokenize=False) if protocol.chat
            else build_prompt(question, shots, protocol))

    def read(text):
        ids = tokenizer(text)["input_ids"]
        ids = ids[1:] if ids[:2] == [1, 1] else ids
        with torch.inference_mode():
            return ids, model(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    ids, table = read(text)
    if protocol.formulation == "cloze":
        joint = [read(f"{text} {option}") for option in question.options]
        scores = [sum(float(own[at - 1, found[at]]) for at in range(len(ids), len(found))) for found, own in joint]
        return [math.exp(score) / sum(map(math.exp, scores)) for score in scores], None
    masses = []
    for letter in question.letters:
        forms = {tuple(read(text + form)[0]) for form in (letter, " " + letter)}
        tokens = {form[-1] for form in forms if form[:-1] == tuple(ids)}
        masses.append(sum(math.exp(table[-1, token]) for token in tokens))
    return [mass / sum(masses) for mass in masses], sum(masses)


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_any_tokenizer_gives_the_probabilities_of_a_plain_forward(pico, place, command, name):
    folder = with_tokenizer(pico, place / "model", TOKENIZERS[name])
    asked = command(folder, place / "q.parquet", place / "out", "--protocols", ",".join(PROTOCOL_NAMES), "--shot-sets", "1")
    assert asked[0] == 0, asked[1]
    model, tokenizer = load_model(folder, torch.float32), load_tokenizer(folder)
    assert (tokenizer.bos_token_id is None) == (name in ("without BOS", "a letter behind a space is two tokens"))
    questions = {question.id: question for question in make_questions()}
    rows = list(read_rows(place / "out" / "answers.parquet"))
    assert len(rows) == 4 * len(PROTOCOL_NAMES)
    for row in rows:
        shots = choose_shots(make_questions(), "t", PROTOCOLS[row["protocol"]], row["shot_set"], 0, "test")
        probabilities, mass = plain(model, tokenizer, row, questions[row["question"]], shots)
        assert row["probabilities"] == pytest.approx(probabilities, abs=1e-5)
        assert row["letter_mass"] == (None if mass is None else pytest.approx(mass, rel=1e-4))


def test_letters_that_are_no_token_are_refused_and_cloze_still_works(pico, place, command):
    """Bracket and letter merge, and a letter behind a space is two tokens: no one token says which option is meant."""
    folder = with_tokenizer(pico, place / "model", byte_level([("(", letter) for letter in "ABC"], bos=False))
    code, lines = command(folder, place / "q.parquet", place / "out", "--protocols", "letters-0shot")
    assert (code, len(lines)) == (2, 1)
    assert "question 'q3': " in lines[0]
    assert "has no single token for the option letter 'A' after" in lines[0]
    assert command(folder, place / "q.parquet", place / "out", "--protocols", "cloze-sum,medconceptsqa-0shot")[0] == 0


NO_ANSWER = {"id": "b", "task": "t", "stem": "What?", "options": {"A": "x", "B": "y"}}
LINE = {"id": "a", "task": "t", "stem": "What?", "options": {"A": "x", "B": "y"}, "answer": "A"}


@pytest.mark.parametrize(("lines", "message"), [
    ([LINE, LINE], "q.jsonl:2: question id 'a' appears twice; ids must be unique"),
    ([LINE, NO_ANSWER], "q.jsonl:2: question 'b' has no answer"),
    ([LINE | {"answer": None}], "q.jsonl:1: question 'a' has no answer"),
    ([LINE | {"answer": "C"}], "q.jsonl:1: question 'a': answer 'C' is not among the options AB"),
    ([LINE | {"answer": "a"}], "q.jsonl:1: question 'a': answer 'a' is not among the options AB"),
    ([LINE | {"answer": ""}], "q.jsonl:1: question 'a': answer '' is not among the options AB"),
    ([LINE | {"options": {"A": "x", "C": "y"}}], "q.jsonl:1: question 'a': option letters ['A', 'C'] are not A, B, C"),
    ([LINE | {"options": {"A": "x", "B": " "}}], "q.jsonl:1: question 'a': option B is empty"),
    ([LINE | {"options": {"A": "x"}}], "q.jsonl:1: question 'a': options: "),
])
def test_unsound_questions_are_refused_by_file_line_and_name(pico, tmp_path, command, lines, message):
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, said = command(pico, tmp_path / "q.jsonl", tmp_path / "out", "--protocols", "letters-0shot")
    assert (code, len(said)) == (2, 1)
    assert message in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_name_the_question(pico, place, command, protocol, value):
    """The embedding of one piece of text is broken, and one question has it."""
    folder = with_tokenizer(pico, place / "model", TOKENIZERS["without BOS"])
    model = load_model(folder, torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[TOKENIZERS["without BOS"]("^")["input_ids"][0]] = value
    model.save_pretrained(folder)
    broken = Question(id="the-one", task="t", stem="Is it ^ or not?", options=("fever", "pain"), answer="A")
    write_questions(place / "q.parquet", [*make_questions(), broken])
    code, lines = command(folder, place / "q.parquet", place / "out", "--protocols", protocol)
    assert (code, len(lines)) == (2, 1)
    assert "question 'the-one': the model computes NaN or infinite logits" in lines[0]


def test_letters_that_a_model_rules_out_altogether_name_the_question():
    """One letter may have a logit of minus infinity; where all have, there is nothing to choose by."""
    class Ruling:
        def __init__(self, *logits):
            self.logits = torch.tensor(logits)

        def last_logits(self, prefix, rows, keep=True):
            return self.logits, None

    items, letters, out = [Item("one", (1,), ()), Item("the-one", (1,), ())], [[(0,), (1,)]] * 2, -math.inf
    found = score_letters(Ruling([1.0, out, 1.0], [out, 0.0, 0.0]), Prefix(0, None), items, letters)
    assert [answer.probabilities for answer in found] == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(UserError, match=r"^question 'the-one': the model computes NaN or infinite logits"):
        score_letters(Ruling([1.0, out, 1.0], [out, out, 0.0]), Prefix(0, None), items, letters)


def test_prompts_longer_than_the_context(pico, place, command):
    long = Question(id="long", task="t", stem="heart " * 600, options=("fever", "pain"), answer="A")
    write_questions(place / "q.parquet", [*make_questions(), long])
    asked = ("--protocols", "letters-3shot", "--shot-sets", "1")
    code, lines = command(pico, place / "q.parquet", place / "out", *asked)
    assert (code, len(lines)) == (2, 1)
    assert "question 'long': its prompt under letters-3shot has" in lines[0]
    assert "this model reads 512" in lines[0]
    for choice in ("drop", "fewer-shots"):
        assert command(pico, place / "q.parquet", place / choice, *asked, "--too-long", choice)[0] == 0
        results = json.loads((place / choice / "results.json").read_text())
        assert results["left_out"] == [["letters-3shot", 0, "long", "en"]]
        assert any("whose questions were left out: 1" in line for line in results["warnings"])
        assert "long" not in {row["question"] for row in read_rows(place / choice / "answers.parquet")}
