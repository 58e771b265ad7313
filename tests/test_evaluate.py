"""The evaluate and select stages through their front door, on a pico model."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.evaluation.computing import Computer
from biomistral.evaluation.settings import EvaluateSettings, SelectSettings
from biomistral.evaluation.summary import degenerate, positions, sensitivity, summarise
from biomistral.models.load import load_model, load_tokenizer
from biomistral.records import ANSWER_SCHEMA, LETTERS, Question, read_rows, write_questions
from biomistral.run import execute
from biomistral.scoring.groups import context_length
from biomistral.statistics import cluster_interval, wilson
from tiny import make_model

WORDS = ["heart", "lung disease", "kidney", "acute liver pain", "brain fever", "essential hypertension", "cough", "中文 é"]


def make_questions(count=12, options=4):
    questions = []
    for task in ("easy", "hard"):
        for number in range(count + 5):
            split = "dev" if number < 5 else "test"
            texts = tuple(WORDS[(number * 3 + place * 5 + len(task)) % 8] + f" {place}" for place in range(options))
            questions.append(Question(
                id=f"{task}-{number}", task=task, split=split, stem=f"What is the description of the medical code E{number}?",
                options=texts, answer=LETTERS[(number * 7) % options],
                meta={"group": "taught" if number % 3 else "untaught"} if task == "easy" else {}))
    return questions


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A pico model and a benchmark folder."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_model(folder / "pico", vocab_size=500)
    (folder / "bench").mkdir()
    write_questions(folder / "bench" / "questions.parquet", make_questions())
    (folder / "bench" / "benchmark.json").write_text(json.dumps(
        {"name": "codes", "tasks": {"easy": {"licence": "public domain"}, "hard": {"licence": "public domain"}}}))
    return folder


def settings(place, **changes):
    return EvaluateSettings(**{"model": str(place / "pico"), "benchmark": str(place / "bench"), "dtype": "float32", **changes})


def rows_of(folder, *without):
    return [{name: value for name, value in row.items() if name not in without}
            for row in read_rows(folder / "answers.parquet")]


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


ALL = ["letters-0shot", "letters-3shot", "medconceptsqa-0shot", "medconceptsqa-4shot", "cloze-sum", "cloze-mean"]


@pytest.fixture(scope="module")
def done(place):
    execute(settings(place, protocols=ALL, shot_sets=2), place / "all")
    return place / "all"


def test_files_say_what_the_contract_says(done):
    assert pq.read_schema(done / "answers.parquet").equals(ANSWER_SCHEMA)
    assert sorted(path.name for path in done.iterdir()) == ["answers.parquet", "manifest.json", "results.json"]
    rows, results = rows_of(done), results_of(done)
    assert len(rows) == 24 * (1 + 2 + 1 + 1 + 1 + 1)
    assert list(results["protocols"]) == ALL
    assert results["model"] == {"name": "pico", "key": results["model"]["key"], "parameters": results["model"]["parameters"],
                                "dtype": "float32", "quantization": None}
    assert results["benchmark"]["name"] == "codes"
    assert results["benchmark"]["limit"] is None
    for row in rows:
        assert math.isclose(sum(row["probabilities"]), 1, abs_tol=1e-9)
        assert row["chosen"] == LETTERS[row["probabilities"].index(max(row["probabilities"]))]
        assert row["right"] == (row["chosen"] == row["answer"])
        assert (row["letter_mass"] is None) == row["protocol"].startswith("cloze")


def test_results_follow_from_the_answers(done):
    rows, results = rows_of(done), results_of(done)
    assert json.loads(json.dumps(summarise(rows))) == results["protocols"]
    for protocol, summary in results["protocols"].items():
        mine = [row for row in rows if row["protocol"] == protocol]
        for task, score in summary["tasks"].items():
            own = [row["right"] for row in mine if row["task"] == task]
            assert score["n"] == 12
            assert score["accuracy"] == pytest.approx(sum(own) / len(own))
            assert score["interval"][0] <= score["accuracy"] <= score["interval"][1]
        assert summary["average"] == pytest.approx(sum(score["accuracy"] for score in summary["tasks"].values()) / 2)
        assert {group: score["n"] for group, score in summary["groups"].items()} == {"taught": 8, "untaught": 4}
    zero = results["protocols"]["letters-0shot"]
    assert zero["tasks"]["hard"]["interval"] == pytest.approx(wilson(zero["tasks"]["hard"]["right"], 12))
    right = {row["question"]: row["right"] for row in rows if row["protocol"] == "letters-0shot"}
    pairs = [[right[f"{task}-{number}"] for task in ("easy", "hard")] for number in range(5, 17)]  # both ask about the same codes
    assert zero["overall"]["interval"] == pytest.approx(cluster_interval(pairs))
    assert results["protocols"]["cloze-sum"]["overall"]["letter_mass"] is None
    assert results["protocols"]["letters-0shot"]["follows_prompt"] is False  # random weights follow nothing
    assert any("did not follow the prompt" in warning for warning in results["warnings"])


def test_answers_are_those_of_a_plain_loop(place, done):
    """Every recorded number of a letters and a cloze protocol, by one forward pass a text over hand-joined prompts."""
    model, tokenizer = load_model(place / "pico", torch.float32), load_tokenizer(place / "pico")
    questions = {question.id: question for question in make_questions()}

    def logprobs(text):
        ids = tokenizer(text)["input_ids"]
        with torch.inference_mode():
            return ids, model(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    for row in rows_of(done):
        question = questions[row["question"]]
        if row["protocol"] == "medconceptsqa-0shot":
            lines = [f"{letter}. {option}" for letter, option in zip("ABCD", question.options, strict=True)]
            _, table = logprobs("Answer A,B,C,D according to the answer to this multiple choice question.\n"
                                + "\n".join([question.stem, *lines]) + "\nAnswer:")
            forms = [tokenizer(form)["input_ids"] for form in ("A", " A", "B", " B", "C", " C", "D", " D")]
            masses = [sum(math.exp(table[-1, ids[0]]) for ids in forms[2 * i: 2 * i + 2] if len(ids) == 1) for i in range(4)]
            assert row["letter_mass"] == pytest.approx(sum(masses), rel=1e-4)
            assert row["probabilities"] == pytest.approx([mass / sum(masses) for mass in masses], abs=1e-5)
            assert row["open_chosen"] == tokenizer.decode([int(table[-1].argmax())]).strip()
        if row["protocol"].startswith("cloze"):
            start = len(tokenizer(question.stem + "\nAnswer:")["input_ids"])
            scores = []
            for option in question.options:
                ids, table = logprobs(question.stem + "\nAnswer: " + option)
                own = [float(table[at - 1, ids[at]]) for at in range(start, len(ids))]
                scores.append(sum(own) / (len(own) if row["protocol"] == "cloze-mean" else 1))
            powers = [math.exp(score - max(scores)) for score in scores]
            assert row["probabilities"] == pytest.approx([power / sum(powers) for power in powers], abs=1e-5)


def test_batch_size_and_order_of_questions_change_nothing(place, done):
    (place / "turned").mkdir()
    write_questions(place / "turned" / "questions.parquet", make_questions()[:5] + make_questions()[5:][::-1])
    protocols = ["letters-0shot", "cloze-sum"]
    execute(settings(place, protocols=protocols, max_batch_tokens=150), place / "small")
    execute(settings(place, protocols=protocols, benchmark=str(place / "turned")), place / "other")
    for other in ("small", "other"):
        found = {(row["protocol"], row["question"]): row for row in rows_of(place / other)}
        for row in rows_of(done):
            if row["protocol"] in protocols:
                twin = found[row["protocol"], row["question"]]
                assert twin["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)
                assert (twin["chosen"], twin["prompt_hash"]) == (row["chosen"], row["prompt_hash"])


def test_killed_and_run_again_computes_only_what_is_not_on_the_disk(place, monkeypatch):
    """SIGKILL in the middle of a part, and half a line behind what was written, as a kill may leave it: the second run computes
    the batches that are not there, and ends in the very same numbers."""
    chosen = settings(place, protocols=["letters-3shot", "cloze-mean"], max_batch_tokens=1)
    code = (f"from pathlib import Path; from biomistral.run import execute; "
            f"from biomistral.evaluation.settings import EvaluateSettings; "
            f"execute(EvaluateSettings.model_validate_json({chosen.model_dump_json()!r}), Path({str(place / 'cut')!r}))")
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = []
    for _ in range(12000):
        lines = [line for path in place.glob(".cut.*.partial/parts/*.jsonl") for line in path.read_bytes().splitlines()]
        if len(lines) > 2 or process.poll() is not None:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (place / "cut").exists()
    journals = list(place.glob(".cut.*.partial/parts/*.jsonl"))
    whole = [json.loads(line) for path in journals for line in path.read_bytes().split(b"\n")[:-1]]
    written = [row for entry in whole for row in entry["rows"]]
    written += [row for path in place.glob(".cut.*.partial/parts/*.parquet") for row in read_rows(path)]
    assert written
    for path in journals:
        with path.open("ab") as file:
            file.write(b'{"batch": 7, "rows": [{"quest')
    computed = []
    rows = Computer.rows
    monkeypatch.setattr(Computer, "rows", lambda self, part: computed.append(part.size) or rows(self, part))
    execute(chosen, place / "cut")
    again = rows_of(place / "cut")
    for row in written:  # even their seconds: they were not computed again
        assert any(all(row[name] == found[name] for name in row if name != "model") for found in again)
    assert sum(computed) == len(again) - len(written)
    execute(chosen, place / "straight")
    assert rows_of(place / "cut", "seconds") == rows_of(place / "straight", "seconds")
    assert not (place / "cut" / "parts").exists()


def test_limit_keeps_a_stable_sample(place):
    execute(settings(place, protocols=["cloze-sum"], limit=4, tasks=["easy"]), place / "four")
    execute(settings(place, protocols=["cloze-sum"], limit=8, tasks=["easy"]), place / "eight")
    four, eight = ({row["question"] for row in rows_of(place / name)} for name in ("four", "eight"))
    assert (len(four), len(eight)) == (4, 8)
    assert four < eight


def test_a_questions_file_and_five_options(place):
    lines = [{"id": f"q{i}", "task": "t", "stem": f"What is {i}?", "options": {"A": "x", "B": "y", "C": "z", "D": "u", "E": "v"},
              "answer": "E"} for i in range(3)]
    lines.append({"id": "two", "task": "t", "stem": "Yes?", "options": {"A": "yes", "B": "no"}, "answer": "A"})
    (place / "five.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    execute(settings(place, benchmark=str(place / "five.jsonl"), protocols=["letters-0shot", "cloze-sum"]), place / "five")
    assert sorted({len(row["probabilities"]) for row in rows_of(place / "five")}) == [2, 5]
    assert results_of(place / "five")["benchmark"]["name"] == "five"


@pytest.mark.parametrize(("changes", "message"), [
    ({"split": "tset"}, "split 'tset'.*did you mean 'test'"),
    ({"tasks": ["esay"]}, "task 'esay'.*did you mean 'easy'"),
    ({"split": "dev", "protocols": ["medconceptsqa-4shot"]}, "needs 4 shots"),
])
def test_refusals_before_any_work(place, changes, message):
    with pytest.raises(UserError, match=message):
        execute(settings(place, **changes), place / "refused")
    assert not (place / "refused").exists()
    assert not list(place.glob(".refused*"))


def test_too_few_shots_are_said_for_all_tasks_at_once(place):
    few = [one for one in make_questions() if one.split == "test" or one.task == "hard" or one.id == "easy-0"]
    write_questions(place / "few.parquet", few)
    with pytest.raises(UserError, match=r"letters-3shot needs 3 shots .* for easy \(1\); .* --tasks hard$"):
        execute(settings(place, benchmark=str(place / "few.parquet"), protocols=["letters-3shot"]), place / "few")


def test_scores_are_printed_as_a_table(place, done, capsys, monkeypatch):
    options = ["--model", str(place / "pico"), "--suite", str(place / "bench"), "--protocols", "letters-0shot,cloze-sum"]
    out = ["--dtype", "float32", "--out", str(place / "table")]
    monkeypatch.setattr(sys, "argv", ["biomistral", "evaluate", *options, *out])
    with pytest.raises(SystemExit):
        main()
    _, first, second = capsys.readouterr().out.strip().split("\n\n")
    found = results_of(place / "table")["protocols"]["letters-0shot"]
    score = found["tasks"]["easy"]
    low, high = (100 * end for end in score["interval"])
    assert first.splitlines()[0].split() == ["letters-0shot", "questions", "pico"]
    assert first.splitlines()[1] == f"easy                     12  {100 * score['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
    assert first.splitlines()[-1].split() == ["average", "of", "tasks", f"{100 * found['average']:.1f}"]
    assert second.startswith("cloze-sum")


def test_a_suite_by_name_that_was_not_built_is_said_how_to_build(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["biomistral", "evaluate", "--model", "m", "--suite", "biomistral", "--out", "r"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "biomistral benchmark build biomistral --files FILES --out biomistral" in capsys.readouterr().err


def test_a_prompt_longer_than_the_context_is_refused_by_name(place):
    long = Question(id="too-long", task="t", stem="heart " * 600, options=("a", "b"), answer="A")
    write_questions(place / "long.parquet", [long])
    with pytest.raises(UserError, match=r"'too-long': its prompt under medconceptsqa-0shot has \d+ tokens, this model reads 512"):
        execute(settings(place, benchmark=str(place / "long.parquet")), place / "refused")
    assert context_length({"text_config": {"max_position_embeddings": 7}}) == 7
    assert context_length({}) is None


def answer(chosen, right_letter, number):
    return {"chosen": chosen, "answer": right_letter, "right": chosen == right_letter, "question": str(number)}


def test_degenerate_answers():
    one_letter = [answer("B", "ABCD"[i % 4], i) for i in range(40)]
    assert degenerate(one_letter) == {"letter": "B", "share": 1.0, "score_of_always": 0.25}
    mostly = [answer("B" if i % 10 else "A", "ABCD"[i % 4], i) for i in range(40)]
    assert degenerate(mostly)["share"] == 0.9
    assert degenerate([answer("ABCD"[i % 4], "ABCD"[i // 4 % 4], i) for i in range(64)]) is None  # 25 %, but no letter's
    assert degenerate([answer("ABCD"[i % 4], "ABCD"[i % 4], i) for i in range(40)]) is None


def test_position_bias_and_sensitivity_to_the_shots(done):
    biased = [answer("A", "ABAC"[i % 4], i) for i in range(8)]
    assert positions(biased) == {"shares": {"A": {"chosen": 1.0, "right": 0.5}, "B": {"chosen": 0.0, "right": 0.25},
                                            "C": {"chosen": 0.0, "right": 0.25}}, "distance": 0.5}
    assert positions([answer("", "A", 0)]) == {"shares": {}, "distance": 0}
    rows = [{**answer(chosen, "A", number), "shot_set": shot_set, "permutation": 0}
            for shot_set, said in enumerate(("AAB", "ABB")) for number, chosen in enumerate(said)]
    assert sensitivity(rows, "shot_set", "permutation") == {
        "accuracies": pytest.approx([2 / 3, 1 / 3]), "changed": pytest.approx(1 / 3), "consistency": pytest.approx(5 / 6)}
    assert sensitivity(rows[:3], "shot_set", "permutation") is None
    found = results_of(done)["protocols"]
    assert len(found["letters-3shot"]["shot_sets"]["accuracies"]) == 2
    three = found["letters-3shot"]
    assert np.mean(three["shot_sets"]["accuracies"]) == pytest.approx(three["overall"]["accuracy"])


def test_select_takes_the_best_and_of_equals_the_first(place):
    for name in ("one", "two"):
        make_model(place / name, seed=len(name) + ord(name[0]))
        execute(settings(place, model=str(place / name), protocols=["cloze-sum"]), place / f"results-{name}")
    candidates = {name: str(place / name) for name in ("one", "two")}
    results = [str(place / f"results-{name}") for name in ("two", "one")]
    accuracy = {name: results_of(place / f"results-{name}")["protocols"]["cloze-sum"]["groups"]["taught"]["accuracy"]
                for name in candidates}
    made = execute(SelectSettings(candidates=candidates, results=results, protocol="cloze-sum", group="taught"), place / "best")
    selection = json.loads((made.path / "selection.json").read_text())
    assert selection["scores"] == accuracy
    assert selection["chosen"] == ("one" if accuracy["one"] >= accuracy["two"] else "two")
    weights = made.path / "model.safetensors"
    assert weights.read_bytes() == (place / selection["chosen"] / "model.safetensors").read_bytes()
    load_model(made.path)

    twice = execute(SelectSettings(candidates={"b": candidates["two"], "a": candidates["two"]}, results=results[:1],
                                   protocol="cloze-sum"), place / "tied")
    assert json.loads((twice.path / "selection.json").read_text())["chosen"] == "b"


def test_select_refuses_what_it_cannot_compare(place):
    candidates = {name: str(place / name) for name in ("one", "two")}
    results = [str(place / f"results-{name}") for name in ("one", "two")]
    with pytest.raises(UserError, match=r"candidate 'two' .* none of the results"):
        execute(SelectSettings(candidates=candidates, results=results[:1], protocol="cloze-sum"), place / "none")
    with pytest.raises(UserError, match="has no score for letters-0shot"):
        execute(SelectSettings(candidates=candidates, results=results, protocol="letters-0shot"), place / "none")
    execute(settings(place, model=str(place / "two"), protocols=["cloze-sum"], limit=3), place / "results-short")
    with pytest.raises(UserError, match="do not compare"):
        execute(SelectSettings(candidates=candidates, results=[results[0], str(place / "results-short")], protocol="cloze-sum"),
                place / "none")
