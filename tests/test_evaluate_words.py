"""Answers in words, through the chat template, TruthfulQA's likelihoods, and prompts that are too long, on a pico model."""

import json
import math

import pytest
import torch

from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.evaluation.summary import summarise
from biomistral.models.load import load_model, load_tokenizer
from biomistral.records import Question, read_rows, write_questions
from biomistral.run import execute
from biomistral.scoring.engine import Engine
from biomistral.scoring.extract import extract
from biomistral.scoring.prompts import PROTOCOLS, build_messages, build_prompt
from tiny import make_model


def make_questions():
    graded = {"fever": True, "high fever": True, "cough": False}
    return [Question(id=f"q{number}", task="t", split="dev" if number < 4 else "test",
                     stem=f"What is {'heart ' * number}E{number}?", options=("fever", "cough", "pain"),
                     answer="ABC"[number % 3], meta={"mc2": graded})
            for number in range(10)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    make_model(folder / "pico", vocab_size=500)
    write_questions(folder / "questions.parquet", make_questions())
    return folder


def run(place, out, **changes):
    execute(EvaluateSettings(**{"model": str(place / "pico"), "benchmark": str(place / "questions.parquet"), "dtype": "float32",
                                **changes}), place / out)
    return list(read_rows(place / out / "answers.parquet")), json.loads((place / out / "results.json").read_text())


def plain_greedy(model, tokenizer, text, longest):
    ids, said = tokenizer(text)["input_ids"], []
    while ids[:2] == [1, 1]:
        ids = ids[1:]
    for _ in range(longest):
        with torch.inference_mode():
            token = int(model(torch.tensor([ids + said])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        said.append(token)
    return tokenizer.decode(said, skip_special_tokens=True)


def test_words_are_those_of_a_plain_loop_and_what_cannot_be_read_is_said(place):
    rows, results = run(place, "words", protocols=["generate-0shot", "chat-generate-0shot"], max_batch_tokens=300)
    model, tokenizer = load_model(place / "pico", torch.float32), load_tokenizer(place / "pico")
    questions = {question.id: question for question in make_questions()}
    for row in rows:
        question, protocol = questions[row["question"]], PROTOCOLS[row["protocol"]]
        text = (tokenizer.apply_chat_template(build_messages(question, [], protocol), tokenize=False, add_generation_prompt=True)
                if protocol.chat else build_prompt(question, [], protocol))
        assert row["said"] == plain_greedy(model, tokenizer, text, protocol.longest)
        assert (row["chosen"], row["unparsed"] or "") == extract(row["said"], question.options, "ABC")
        assert row["probabilities"] is None
    for name, summary in results["protocols"].items():
        mine = [row for row in rows if row["protocol"] == name]
        unread = [row for row in mine if row["unparsed"]]
        assert sum(summary["unparsed"].values()) == len(unread)
        assert summary["overall"]["parsed"] == pytest.approx(1 - len(unread) / len(mine))
        assert summary["calibration"] is None
    assert json.loads(json.dumps(summarise(rows))) == results["protocols"]
    assert any("could not be read" in warning for warning in results["warnings"])  # random weights say nothing sensible


def test_batches_change_no_word(place):
    model = load_model(place / "pico", torch.float32)
    engine = Engine(model)
    rows = [[5, 6, 7, 9 + n, *range(20, 20 + n)] for n in range(6)]
    together = engine.greedy(engine.prefix([5, 6, 7]), [row[3:] for row in rows], 12, {2})
    for row, said in zip(rows, together, strict=True):
        assert engine.greedy(engine.prefix([]), [row], 12, {2}) == [said]
    first = together[0][3]
    assert engine.greedy(engine.prefix([]), [rows[0]], 12, {first}) == [together[0][: together[0].index(first)]]


def test_chat_letters_are_read_behind_the_template(place):
    rows, results = run(place, "chat", protocols=["chat-0shot"])
    assert len(results["model"]["chat_template"]) == 64
    model, tokenizer = load_model(place / "pico", torch.float32), load_tokenizer(place / "pico")
    question = make_questions()[4]
    text = tokenizer.apply_chat_template(build_messages(question, [], PROTOCOLS["chat-0shot"]), tokenize=False,
                                         add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        last = model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
    forms = [[tokenizer(form, add_special_tokens=False)["input_ids"] for form in (letter, " " + letter)] for letter in "ABC"]
    masses = [sum(float(last[one[0]]) for one in own if len(one) == 1) for own in forms]
    row = next(row for row in rows if row["question"] == "q4")
    assert row["letter_mass"] == pytest.approx(sum(masses), rel=1e-4)


def test_a_model_without_a_template_is_refused_for_chat(place):
    make_model(place / "bare", vocab_size=500)
    (place / "bare" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template, which chat-0shot needs"):
        run(place, "refused", model=str(place / "bare"), protocols=["chat-0shot"])


def test_truthfulqa_by_likelihood(place):
    rows, results = run(place, "mc", protocols=["truthfulqa-mc", "truthful-0shot"])
    model, tokenizer = load_model(place / "pico", torch.float32), load_tokenizer(place / "pico")
    for row in (row for row in rows if row["protocol"] == "truthfulqa-mc"):
        stem = next(question.stem for question in make_questions() if question.id == row["question"])
        start, masses = len(tokenizer(f"Q: {stem}\nA:")["input_ids"]), {}
        for answer in ("fever", "cough", "pain", "high fever"):
            ids = tokenizer(f"Q: {stem}\nA: {answer}")["input_ids"]
            with torch.inference_mode():
                table = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            masses[answer] = math.exp(sum(float(table[at - 1, ids[at]]) for at in range(start, len(ids))))
        assert row["chosen"] == "ABC"[max(range(3), key=lambda place: masses[("fever", "cough", "pain")[place]])]
        true = masses["fever"] + masses["high fever"]
        assert row["truth_mass"] == pytest.approx(true / (true + masses["cough"]), rel=1e-4)
    overall = results["protocols"]["truthfulqa-mc"]["overall"]
    assert overall["mc2"] == pytest.approx(sum(row["truth_mass"] or 0 for row in rows) / 6)
    assert "mc2" not in results["protocols"]["truthful-0shot"]["overall"]


def test_prompts_that_are_too_long_are_left_out_or_get_fewer_shots_and_are_counted(place):
    questions = [*make_questions(), Question(id="long", task="t", stem="heart " * 330, options=("a", "b"), answer="A"),
                 Question(id="endless", task="t", stem="heart " * 900, options=("a", "b"), answer="A")]
    write_questions(place / "long.parquet", questions)
    asked = {"benchmark": str(place / "long.parquet"), "protocols": ["letters-3shot"], "shot_sets": 1}
    with pytest.raises(UserError, match=r"'long'.*--too-long drop or fewer-shots"):
        run(place, "refused", **asked)
    _, results = run(place, "dropped", too_long="drop", **asked)
    assert results["left_out"] == [["letters-3shot", 0, "long", "en"], ["letters-3shot", 0, "endless", "en"]]
    assert results["protocols"]["letters-3shot"]["overall"]["n"] == 6
    assert "prompts longer than the model reads, whose questions were left out: 2" in " ".join(results["warnings"])
    rows, results = run(place, "fewer", too_long="fewer-shots", **asked)
    assert results["left_out"] == [["letters-3shot", 0, "endless", "en"]]
    shots = {row["question"]: row["shots"] for row in rows}
    assert shots.pop("long") in (0, 1, 2)
    assert set(shots.values()) == {3}
    assert "prompts longer than the model reads, which got fewer shots: 1" in " ".join(results["warnings"])
