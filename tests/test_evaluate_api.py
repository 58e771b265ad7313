"""The API engine against a real server in a process of its own, with every fault that a server can have."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.evaluation.summary import summarise
from biomistral.recipe import Machine, canonical_hash, parse
from biomistral.records import Question, read_rows, write_questions
from biomistral.reporting.results import read_results
from biomistral.run import execute
from biomistral.scoring.extract import extract
from biomistral.scoring.prompts import PROTOCOLS, build_messages, build_prompt, choose_shots, in_words
from completions_server import scores

LETTERED = ["letters-0shot", "chat-0shot"]


def make_questions(count=12):
    graded = {"fever": True, "high fever": True, "cough": False}
    return [Question(id=f"q{number}", task="t", split="dev" if number < 4 else "test",
                     stem=f"What is {'heart ' * number}E{number}?", options=("fever", "cough", "pain")[: 2 + number % 2],
                     answer="AB"[number % 2], meta={"mc2": graded})
            for number in range(count)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "questions.parquet"
    write_questions(path, make_questions())
    return path


class Place:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/v1"

    def log(self):
        with urllib.request.urlopen(self.url + "/log", timeout=10) as answer:
            return json.load(answer)

    def asked_twice(self):
        return [body for body, times in Counter(self.log()["answered"]).items() if times > 1]


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("biomistral.endpoint.waits.FIRST_SECONDS", 0.01)
    monkeypatch.setattr("biomistral.endpoint.waits.MOST_SECONDS", 0.02)

    @contextmanager
    def started(**state):
        script = Path(__file__).parent / "completions_server.py"
        with subprocess.Popen([sys.executable, str(script), json.dumps(state)], stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Place(int(process.stdout.readline()))
            finally:
                process.kill()

    return started


def run(place, bench, out, protocols, use=None, **changes):
    settings = EvaluateSettings(**{"engine": "api", "url": place.url, "model": "hash", "benchmark": str(bench),
                                   "protocols": protocols, **changes})
    execute(settings, out, Machine(requests=use or {}))
    return list(read_rows(out / "answers.parquet")), json.loads((out / "results.json").read_text())


def facts(folder):
    return json.loads((folder / "manifest.json").read_text())["facts"]["asked"]


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_letters_are_read_among_the_likeliest_tokens(serve, bench, tmp_path):
    with serve(top=25) as place:
        rows, results = run(place, bench, tmp_path / "out", [*LETTERED, "generate-0shot"], top_logprobs=25)
    questions = {question.id: question for question in make_questions()}
    assert len(rows) == 24
    for row in rows:
        question, protocol = questions[row["question"]], PROTOCOLS[row["protocol"]]
        prompt = (json.dumps(build_messages(question, [], protocol)) if protocol.chat else build_prompt(question, [], protocol))
        table = scores(prompt)
        best = max(table, key=lambda token: table[token])
        if protocol.by_text:
            assert row["said"] == f"{best}) because"
            assert (row["chosen"], row["unparsed"] or "") == extract(row["said"], question.options, question.letters)
            continue
        masses = [math.exp(table[letter]) + math.exp(table[" " + letter]) for letter in question.letters]
        assert row["probabilities"] == pytest.approx([mass / sum(masses) for mass in masses])
        assert row["letter_mass"] == pytest.approx(sum(masses))
        assert row["open_chosen"] == best.strip()
        assert row["chosen"] == "ABC"[masses.index(max(masses))]
        assert row["prompt_tokens"] == len(prompt.split())
    assert results["model"] == {"name": "hash", "key": results["model"]["key"], "parameters": None, "dtype": None,
                                "quantization": None, "url": place.url, "served": "hash"}
    assert json.loads(json.dumps(summarise(rows))) == results["protocols"]
    assert not [warning for warning in results["warnings"] if "likeliest" in warning]


FAULTS = ["429", "429:0", "500", "503", "drop", "truncated", "half-json", "schema"]


def test_faults_change_no_record_and_nothing_is_asked_twice(serve, bench, tmp_path):
    with serve() as place:
        url, sound = place.url, run(place, bench, tmp_path / "sound", [*LETTERED, "cloze-sum"])
    with serve(faults=FAULTS) as place:
        faulty = run(place, bench, tmp_path / "faulty", [*LETTERED, "cloze-sum"], {"tries": 9, "concurrency": 5})
        assert place.asked_twice() == []
        assert place.log()["most"] <= 5
    assert without_seconds(faulty[0]) == without_seconds(sound[0])
    assert [(row["protocol"], row["question"]) for row in sound[0]][:9] == [("letters-0shot", f"q{n}") for n in range(4, 12)] + [
        ("chat-0shot", "q4")]
    assert url not in json.dumps(sound[0])


def test_a_slow_answer_is_asked_again(serve, bench, tmp_path):
    with serve(faults=["slow"]) as place:
        rows, _ = run(place, bench, tmp_path / "out", ["letters-0shot"], {"timeout": 0.3})
        assert len(rows) == 8
        assert place.asked_twice() == []


def test_retry_after_is_honoured_by_all(serve, bench, tmp_path):
    with serve(faults=["429:1"]) as place:
        run(place, bench, tmp_path / "out", ["letters-0shot"], {"concurrency": 4})
        times = sorted(place.log()["times"])
    assert times[1] - times[0] >= 1  # the first question alone; the others find the same
    first_round = times[2:6]
    assert times[6] - first_round[0] >= 1


@pytest.mark.parametrize(("state", "message"), [
    ({"faults": ["500"] * 9}, r"http://127.0.0.1:\d+/v1: HTTP 500 broken, 4 times in a row; see that the server runs"),
    ({"faults": ["schema"] * 9}, r"its answer cannot be read .*4 times in a row"),
    ({"faults": ["429:4000"]}, r"it asks to wait for 4000 s"),
    ({"faults": ["400:this is\nnot allowed"]}, r"^question 'q4': .* refuses it under letters-0shot: this is not allowed$"),
    ({"faults": ["404"]}, r"HTTP 404: broken; see that --model is a name it serves"),
    ({"faults": ["301"]}, r"HTTP 301: redirects to \?, which is not followed"),
    ({"key": "secret"}, r"HTTP 401: wrong key: None; put the server's key into the environment variable BIOMISTRAL_API_KEY"),
    ({"longest": 20}, r"question 'q4': .*maximum context length"),
])
def test_what_does_not_pass_ends_in_one_line(serve, bench, tmp_path, state, message):
    with serve(**state) as place, pytest.raises(UserError, match=message) as caught:
        run(place, bench, tmp_path / "out", ["letters-0shot"], {"tries": 4})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_nobody_listens(bench, tmp_path, serve):
    with pytest.raises(UserError, match="3 times in a row; see that the server runs and --url is right"):
        run(Place(1), bench, tmp_path / "out", ["letters-0shot"])
    assert not list(tmp_path.iterdir())


def test_the_key_comes_from_the_environment_and_stands_nowhere(serve, bench, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    caplog.set_level("INFO", "biomistral")
    with serve(key="sk-very-secret") as place:
        run(place, bench, tmp_path / "out", ["letters-0shot"], {"key_env": "MY_KEY"})
        monkeypatch.setenv("MY_KEY", "sk-not-quite-right")
        with pytest.raises(UserError, match=r"wrong key: Bearer \*\*\*; put") as caught:
            run(place, bench, tmp_path / "no", ["letters-0shot"], {"key_env": "MY_KEY"})
    said = caplog.text + str(caught.value) + (tmp_path / "out" / "manifest.json").read_text() + (
        tmp_path / "out" / "results.json").read_text()
    assert "sk-" not in said
    assert all(b"sk-very" not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_without_logprobs_it_is_asked_in_words_and_said(serve, bench, tmp_path):
    with serve(logprobs=False) as place:
        rows, results = run(place, bench, tmp_path / "out", [*LETTERED, "generate-0shot"])
    assert list(results["protocols"]) == ["generate-0shot", "chat-generate-0shot"]
    assert len(rows) == 16
    assert {row["probabilities"] for row in rows} == {None}
    for name, other in (("letters-0shot", "generate-0shot"), ("chat-0shot", "chat-generate-0shot")):
        assert f"hash: {name}: the server gives no log-probabilities: asked as {other} instead" in results["warnings"]


@pytest.mark.parametrize("style", ["openai", "llama.cpp"])
def test_few_logprobs_and_missing_letters_are_said(serve, bench, tmp_path, style):
    with serve(top=5, hidden="B", style=style) as place:
        rows, results = run(place, bench, tmp_path / "out", ["letters-0shot"])
        assert place.asked_twice() == []
    in_words = [row for row in rows if row["said"] is not None]
    assert in_words
    assert len(in_words) < len(rows) == 8
    none = f"letters-0shot: {len(in_words)} questions had none of their letters among the likeliest 5 tokens"
    assert none in " ".join(results["warnings"])
    assert any("a letter (of" in warning and "B" in warning and "counts as 0; it had at most 0." in warning
               for warning in results["warnings"])
    for row in rows:
        assert row["said"] is not None or row["probabilities"][1] == 0
    assert results["protocols"]["letters-0shot"]["calibration"] is not None


def test_every_letter_protocol_has_a_twin_in_words():
    for protocol in PROTOCOLS.values():
        if protocol.score == "letter":
            assert in_words(protocol).by_text
            assert in_words(protocol).formulation == protocol.formulation


def test_likelihoods_need_echo(serve, bench, tmp_path):
    with serve() as place:
        rows, _ = run(place, bench, tmp_path / "out", ["cloze-sum", "cloze-mean", "truthfulqa-mc"])
        assert place.asked_twice() == []
    assert len(rows) == 24
    assert all(0 < row["truth_mass"] < 1 for row in rows if row["protocol"] == "truthfulqa-mc")
    with serve(echo=False) as place, pytest.raises(UserError, match=r"gives no log-probabilities of a prompt .*cloze-sum needs"):
        run(place, bench, tmp_path / "no", ["letters-0shot", "cloze-sum"])


def test_more_fields_of_a_request(serve, bench, tmp_path):
    with serve() as place:
        run(place, bench, tmp_path / "out", ["letters-0shot"], body={"seed": "7", "temperature": "null", "user": '"é"'})
        bodies = [json.loads(body) for body in place.log()["answered"]]
    assert all((body["seed"], body["user"]) == (7, "é") and "temperature" not in body for body in bodies)
    with pytest.raises(ValueError, match="seed=x: JSON was expected"):
        EvaluateSettings(model="m", benchmark="b", body={"seed": "x"})


def test_prompts_that_a_server_cuts_without_a_word_are_told(serve, tmp_path):
    questions = [one.model_copy(update={"stem": one.stem + number * 10 * " word"})
                 for number, one in enumerate(make_questions())]
    write_questions(tmp_path / "questions.parquet", questions)
    with serve(keeps=60) as place:
        _, cut = run(place, tmp_path / "questions.parquet", tmp_path / "cut", ["letters-0shot"])
    with serve() as place:
        _, whole = run(place, tmp_path / "questions.parquet", tmp_path / "whole", ["letters-0shot"])
    notes = [warning for warning in cut["warnings"] if "may have cut" in warning]
    assert len(notes) == 1
    assert "at 60 tokens each, and none at more" in notes[0]
    assert not [warning for warning in whole["warnings"] if "may have cut" in warning]


def test_prompts_too_long_for_the_server_are_left_out(serve, bench, tmp_path):
    lengths = sorted(len(build_prompt(question, [], PROTOCOLS["letters-0shot"])) for question in make_questions()[4:])
    with serve(longest=lengths[5]) as place:
        rows, results = run(place, bench, tmp_path / "out", ["letters-0shot"], too_long="drop")
    assert len(results["left_out"]) == 2
    assert len(rows) == 6
    assert "prompts longer than the model reads, whose questions were left out: 2" in " ".join(results["warnings"])


@pytest.mark.parametrize("permutations", [1, 2])
def test_prompts_too_long_for_the_server_get_as_many_shots_as_fit(serve, bench, tmp_path, permutations):
    questions = make_questions()
    shots = {shot_set: choose_shots(questions, "t", PROTOCOLS["letters-3shot"], shot_set, 0, "test") for shot_set in range(2)}

    def length(question, own):
        return len(build_prompt(question, own, PROTOCOLS["letters-3shot"]))

    longest = length(questions[6], shots[0][:2])  # most have room for 2, 1 or no shots, the last not even alone
    long = Question(id="long", task="t", stem="heart " * 200, options=("fever", "cough"), answer="A")
    write_questions(tmp_path / "q.parquet", [*questions, long])
    with serve(longest=longest) as place:
        rows, results = run(place, tmp_path / "q.parquet", tmp_path / "out", ["letters-3shot"], shot_sets=2,
                            too_long="fewer-shots", permutations=permutations)
    assert {tuple(one) for one in results["left_out"]} == {("letters-3shot", shot_set, "long", "en") for shot_set in (0, 1)}
    by_id = {question.id: question for question in questions}
    for row in rows:
        own = shots[row["shot_set"]]
        fitting = next(count for count in (3, 2, 1, 0) if length(by_id[row["question"]], own[:count]) <= longest)
        assert row["shots"] == fitting
        if not row["permutation"]:
            prompt = build_prompt(by_id[row["question"]], own[:fitting], PROTOCOLS["letters-3shot"])
            assert row["prompt_hash"] == canonical_hash([prompt, *by_id[row["question"]].options])[:16]
    assert len(rows) == 8 * 2 * permutations
    assert len({row["shots"] for row in rows}) > 1
    fewer = sum(row["shots"] < 3 for row in rows)
    assert f"prompts longer than the model reads, which got fewer shots: {fewer}" in " ".join(results["warnings"])


def test_translations_have_answers_of_their_own(serve, bench, tmp_path):
    """Ids are the same in both languages: nothing is taken for something else, not even what is left out."""
    french = [one.model_copy(update={"language": "fr", "stem": one.stem.replace("What is", "Qu'est-ce que")})
              for one in make_questions() if one.split == "test"]
    write_questions(tmp_path / "fr.parquet", french)
    lengths = sorted(len(build_prompt(question, [], PROTOCOLS["letters-0shot"])) for question in make_questions()[4:])
    more = {"translations": [str(tmp_path / "fr.parquet")], "too_long": "drop"}
    with serve(longest=lengths[-1]) as place:
        rows, results = run(place, bench, tmp_path / "out", ["letters-0shot"], **more)
        assert place.asked_twice() == []
    assert results["left_out"] == [["letters-0shot", 0, "q11", "fr"]]
    assert {(row["language"], row["question"]) for row in rows} == {
        (language, f"q{number}") for language in ("en", "fr") for number in range(4, 12)} - {("fr", "q11")}
    assert len({row["prompt_hash"] for row in rows}) == len(rows) == 15
    languages = results["protocols"]["letters-0shot"]["languages"]
    assert (languages["fr"]["gap"]["overall"]["n"], results["fertility"]) == (7, None)
    assert read_results(tmp_path / "out").runs["letters-0shot"].summary.languages["en"].overall.n == 8


def test_money(serve, bench, tmp_path, caplog):
    caplog.set_level("INFO", "biomistral")
    prices = {"price_in": 10.0, "price_out": 20.0}
    with serve() as place:
        with pytest.raises(UserError, match=r"--max-cost 0.0001: 8 requests may cost 0\.0\d+ .*ask fewer"):
            run(place, bench, tmp_path / "no", ["letters-0shot"], {**prices, "max_cost": 0.0001})
        assert place.log()["answered"] == []
        run(place, bench, tmp_path / "out", ["letters-0shot"], {**prices, "max_cost": 1})
    assert "8 requests, about" in caplog.text
    assert "may cost 0.0" in caplog.text
    asked = facts(tmp_path / "out")
    assert asked["cost"] == pytest.approx((10 * asked["prompt_tokens"] + 20 * 8) / 1e6)
    with pytest.raises(UserError, match="max_cost needs price_in and price_out"):
        parse(Machine, {"requests": {"max_cost": 5}})


def test_killed_it_goes_on_and_pays_for_nothing_twice(serve, bench, tmp_path):
    with serve(delay=0.1) as place:
        settings = EvaluateSettings(engine="api", url=place.url, model="hash", benchmark=str(bench), protocols=["letters-0shot"])
        code = (f"from pathlib import Path; from biomistral.run import execute; from biomistral.recipe import Machine; "
                f"from biomistral.evaluation.settings import EvaluateSettings; "
                f"execute(EvaluateSettings.model_validate_json({settings.model_dump_json()!r}), Path({str(tmp_path / 'cut')!r}), "
                "Machine(requests={'concurrency': 1}))")
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
        for _ in range(3000):
            kept = [file for file in tmp_path.glob(".cut.*.partial/parts/answers.jsonl") if file.read_bytes().count(b"\n") >= 6]
            if kept or process.poll() is not None:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with kept[0].open("a") as file:
            file.write('{"key": "cut in the mid')
        lines = list(map(json.loads, kept[0].read_text().splitlines()[:-1]))
        asked_before = len(place.log()["times"])
        prices = {"price_in": 10.0, "price_out": 20.0}
        rows, _ = run(place, bench, tmp_path / "cut", ["letters-0shot"], prices)
        assert {line["seconds"] for line in lines if "seconds" in line} <= {row["seconds"] for row in rows}
        assert len(place.asked_twice()) <= 1  # what was on its way when it was killed
        straight, _ = run(place, bench, tmp_path / "straight", ["letters-0shot"])
    assert without_seconds(rows) == without_seconds(straight)
    sent = [line for line in lines if line.get("word") == "sent"]
    lost = len(sent) - sum("seconds" in line for line in lines)
    asked = facts(tmp_path / "cut")
    assert 0 <= lost <= 1
    assert asked_before <= len(sent)  # a request is noted before it goes out
    assert (asked["unanswered"], asked["requests"]) == (lost, 8)
    most = sent[-1]["tokens"] if lost else [0, 0]
    assert asked["unanswered_cost"] == pytest.approx((10 * most[0] + 20 * most[1]) / 1e6)
    answered = facts(tmp_path / "straight")["prompt_tokens"] * 1e-5 + 8 * 2e-5
    assert asked["cost"] == pytest.approx(answered + asked["unanswered_cost"])


def test_what_lost_answers_may_have_cost_is_counted_after_a_resume(serve, bench, tmp_path, caplog):
    """Each answer of the first run is lost on its way, and it may send a request but once; the next one knows what that cost."""
    caplog.set_level("INFO", "biomistral")
    prices = {"price_in": 10.0, "price_out": 20.0, "concurrency": 3}
    with serve(faults=["drop"]) as place:
        with pytest.raises(UserError, match="1 times in a row"):
            run(place, bench, tmp_path / "out", ["letters-0shot"], {**prices, "tries": 1})
        lines = [json.loads(line) for path in tmp_path.glob(".out.*.partial/parts/*.jsonl") for line in path.open()]
        lost = [line["tokens"] for line in lines if line["word"] == "lost"]
        cost = sum(10 * into + 20 * out for into, out in lost) / 1e6
        assert 1 <= len(lost) <= 3
        with pytest.raises(UserError, match=rf"--max-cost {cost:g}: .*and {cost:.4g} is spent"):
            run(place, bench, tmp_path / "out", ["letters-0shot"], {**prices, "max_cost": float(f"{cost:g}")})
        run(place, bench, tmp_path / "out", ["letters-0shot"], {**prices, "tries": 3})
        run(place, bench, tmp_path / "all", ["letters-0shot"], {**prices, "tries": 3})
    asked, straight = facts(tmp_path / "out"), facts(tmp_path / "all")
    assert asked["unanswered"] == 8  # those of the first run, and of what it did not come to
    assert straight["unanswered"] == 0
    assert asked["cost"] == pytest.approx(straight["cost"] + asked["unanswered_cost"])
    assert "8 answers never came, for which a server may have charged" in caplog.text


@pytest.mark.parametrize(("changes", "message"), [
    ({"url": ""}, "engine api needs a url"),
    ({"engine": "local"}, "a url is for engine api"),
])
def test_settings_that_do_not_fit(bench, changes, message):
    with pytest.raises(ValueError, match=message):
        EvaluateSettings(**{"engine": "api", "url": "http://x", "model": "m", "benchmark": str(bench), **changes})


@pytest.mark.parametrize(("url", "message"), [
    ("localhost:8000", "not the URL of a server"), ("ftp://x/v1", "not the URL of a server"),
    ("http://user:sk-1@x/v1", r"^--url http://x\.\.\.: holds a user name"), ("http://x/v1?key=sk-1", "holds a user name"),
])
def test_urls(url, message, bench, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        run(type("P", (), {"url": url}), bench, tmp_path / "out", ["letters-0shot"])
    assert "sk-1" not in str(caught.value)


def test_the_command_prints_the_table(serve, bench, tmp_path, capsys, monkeypatch):
    with serve() as place:
        where = ["--engine", "api", "--url", place.url, "--model", "hash", "--suite", str(bench), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["biomistral", "evaluate", *where, "--protocols", "letters-0shot"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    assert ["letters-0shot", "questions", "hash"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_permutations_are_asked_of_a_server_too(serve, bench, tmp_path):
    with serve(top=25) as place:
        rows, results = run(place, bench, tmp_path / "out", [*LETTERED, "generate-0shot"], top_logprobs=25, permutations=3)
    questions = {question.id: question for question in make_questions()}
    assert len(rows) == 3 * 3 * 8
    for row in rows:
        question = questions[row["question"]]
        shown = [question.options[place] for place in row["order"] or range(len(question.options))]
        assert shown["ABC".index(row["answer"])] == question.options[question.answer_index]
    assert len(results["protocols"]["letters-0shot"]["permutations"]["accuracies"]) == 3
    assert read_results(tmp_path / "out").runs["chat-0shot"].permutations == 3
