"""Translation by a server: nothing lost, nothing paid twice, whatever the server or its model does; a real server process."""

import json
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
from biomistral.recipe import Machine
from biomistral.records import Question, read_questions, read_rows, write_questions
from biomistral.run import execute
from biomistral.translation.settings import TranslateSettings
from translation_server import SENTENCES, translated

OPTIONS = tuple(text for text, _ in SENTENCES[2:])
PAIN = SENTENCES[1][0]


def question(number, **changes):
    options = OPTIONS[number % 2:][:3]
    return Question(**{"id": f"q{number}", "task": "nerves", "stem": SENTENCES[0][0].replace("{n}", str(number)),
                       "options": options, "answer": "ABC"[number % 3], "meta": {"note": number}, **changes})


def expected(one):
    return [translated(text, False) for text in (one.stem, *one.options)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("biomistral.endpoint.waits.FIRST_SECONDS", 0.01)
    monkeypatch.setattr("biomistral.endpoint.waits.MOST_SECONDS", 0.02)
    return tmp_path


class Place:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/v1"

    def answered(self):
        with urllib.request.urlopen(self.url + "/log", timeout=10) as answer:
            return json.load(answer)["answered"]

    def twice(self):
        return [body for body, times in Counter(self.answered()).items() if times > 1]


@contextmanager
def serving(**state):
    script = Path(__file__).parent / "translation_server.py"
    with subprocess.Popen([sys.executable, str(script), json.dumps(state)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Place(int(process.stdout.readline()))
        finally:
            process.kill()


def bench(folder, questions):
    write_questions(folder / "questions.parquet", questions)
    return folder / "questions.parquet"


def read_manifest(folder):
    return json.loads((folder / "manifest.json").read_text())["facts"]["translation"]


def run(place, suite, out, use=None, servers=None, cache=None, first_estimate=True, **changes):
    settings = TranslateSettings(**{"engine": "api", "url": place.url, "model": "words", "benchmark": str(suite), "to": "pt",
                                    **changes})
    machine = Machine(requests={"concurrency": 8, **(use or {})}, second=servers or {}, cache=str(cache or ""))
    with pytest.MonkeyPatch.context() as patch:
        if not first_estimate:  # as if the estimate had been too low
            patch.setattr("biomistral.translation.desk.Desk.foresee", lambda *_: None)
        return execute(settings, out, machine)


def sound(out):
    return {one.id: one for one in read_questions(out / "questions.parquet")}


def to_review(out):
    return {row["id"]: row for row in read_rows(out / "needs_review.parquet")}


def test_every_question_is_translated_checked_and_said_by_whom(home):
    asked = [question(number, context=PAIN.replace("{n}", "45") if number % 2 else None) for number in range(6)]
    with serving() as place:
        artifact = run(place, bench(home, asked), home / "pt")
    found = sound(home / "pt")
    for one in asked:
        mine = found[one.id]
        assert [mine.stem, *mine.options] == expected(one)
        assert (mine.answer, mine.task, mine.split, mine.language) == (one.answer, one.task, one.split, "pt")
        assert (mine.context is None) == (one.context is None)
        assert mine.meta["note"] == one.meta["note"]
        assert mine.meta["translation"] == {"engine": "api", "model": "words", "attempt": 1, "from": "en"}
    facts = artifact.manifest["facts"]["translation"]
    assert facts["engines"][0]["prompt"]
    assert facts["passed"] == {"nerves": {"sound": 6, "of": 6}}
    assert facts["back_translation"]["model"] == "words"
    assert to_review(home / "pt") == {}


def test_what_was_translated_once_is_never_asked_again_in_any_run(home):
    with serving() as place:
        suite = bench(home, [question(number) for number in range(4)])
        run(place, suite, home / "first", limit=2)
        run(place, suite, home / "second")
        run(place, suite, home / "third", use={"concurrency": 1}, limit=3)
        assert place.twice() == []
        assert len(place.answered()) == 8  # four questions, there and back
    assert len(sound(home / "second")) == 4


@pytest.mark.parametrize("faults", [["429", "500"], ["drop", "half-json"], ["truncated", "schema"]])
def test_a_tenth_of_all_requests_failing_loses_nothing_and_doubles_nothing(home, faults):
    asked = [question(number) for number in range(60)]
    with serving(faults=faults, struck_share=0.1) as place:
        run(place, bench(home, asked), home / "pt", use={"concurrency": 64})
        assert place.twice() == []
        assert len(place.answered()) == 120
    found = sound(home / "pt")
    assert [found[one.id].stem for one in asked] == [expected(one)[0] for one in asked]


FAULTS = {"fewer": "missing", "swapped": "order", "html": "not_json", "words": "not_json", "not-json": "not_json",
          "list": "not_json", "language": "untranslated", "refusal": "not_json", "number": "number", "empty": "not_text",
          "object": "not_text", "twice": "duplicate", "surrogate": "not_text", "nothing": "not_json"}


def test_an_answer_with_a_fault_is_asked_again_with_the_reason(home):
    kinds = list(FAULTS)
    asked = [question(number) for number in range(len(kinds))]
    with serving(said=dict(zip(map(str, range(len(kinds))), kinds, strict=True))) as place:
        artifact = run(place, bench(home, asked), home / "pt")
        again = [body for body in place.answered() if "sent back" in body]
        assert place.twice() == []
    assert len(again) == len(kinds)
    found = sound(home / "pt")
    assert [[found[one.id].stem, *found[one.id].options] for one in asked] == [expected(one) for one in asked]
    assert {found[one.id].meta["translation"]["attempt"] for one in asked} == {2}
    assert [row["sound"] for row in artifact.manifest["facts"]["translation"]["rounds"]] == [0, len(kinds)]


def test_what_stays_wrong_goes_to_review_with_its_reasons_and_never_into_the_benchmark(home):
    kinds = list(FAULTS)
    asked = [question(number) for number in range(len(kinds) + 1)]
    with serving(said={str(number): f"always:{kind}" for number, kind in enumerate(kinds)}) as place:
        artifact = run(place, bench(home, asked), home / "pt", attempts=2)
    review = to_review(home / "pt")
    assert list(sound(home / "pt")) == [asked[-1].id]
    for one, kind in zip(asked, kinds, strict=False):
        row = review[one.id]
        assert FAULTS[kind] in {reason["check"] for reason in row["reasons"]}, (kind, row["reasons"])
        assert [field["source"] for field in row["fields"]] == [one.stem, *one.options]
        assert row["attempts"] == 2
    assert artifact.manifest["counts"]["needs_review"] == len(kinds)
    assert artifact.manifest["facts"]["translation"]["reasons"]["not_json"] >= 5


def test_json_in_a_fence_is_read(home):
    with serving(said={"0": "fence"}) as place:
        run(place, bench(home, [question(0)]), home / "pt")
        assert len(place.answered()) == 2
    assert list(sound(home / "pt")) == ["q0"]


def test_a_second_engine_gets_what_the_first_failed_at(home):
    with serving(said={"1": "always:number"}) as place, serving() as other:
        run(place, bench(home, [question(0), question(1)]), home / "pt", attempts=2,
            second={"engine": "api", "url": other.url, "model": "better"})
    found = sound(home / "pt")
    assert found["q0"].meta["translation"]["model"] == "words"
    assert found["q1"].meta["translation"]["model"] == "better"


def test_a_server_without_response_format_is_asked_without(home):
    with serving(formats=False) as place:
        run(place, bench(home, [question(number) for number in range(3)]), home / "pt")
        assert not any("response_format" in body for body in place.answered())
    assert len(sound(home / "pt")) == 3


def test_a_long_context_is_cut_at_sentences_and_put_together_again(home):
    context = " ".join(PAIN.replace("{n}", str(10 + number % 80)) for number in range(560))  # 8,400 words
    with serving() as place:
        run(place, bench(home, [question(1, context=context)]), home / "pt")
        sent = [json.loads(json.loads(body)["messages"][1]["content"]) for body in place.answered()]
    assert all(sum(map(len, fields.values())) <= 8000 for fields in sent)
    assert sound(home / "pt")["q1"].context == translated(context, False)


def test_a_reached_budget_stops_in_one_line_and_pays_only_for_what_is_missing(home):
    suite = bench(home, [question(number) for number in range(12)])
    prices = {"price_in": 1000, "price_out": 1000, "concurrency": 1}
    with serving(said={str(number): "number" for number in range(12)}) as place:
        with pytest.raises(UserError, match="--max-cost") as said:
            run(place, suite, home / "pt", use={**prices, "max_cost": 4}, first_estimate=False)
        assert "\n" not in str(said.value)
        before = len(place.answered())
        artifact = run(place, suite, home / "pt", use={**prices, "max_cost": 1000})
        assert place.twice() == []
        assert before > 0
    facts = artifact.manifest["facts"]["translation"]
    assert facts["cost"] == pytest.approx((facts["prompt_tokens"] + facts["completion_tokens"]) / 1000)
    assert len(sound(home / "pt")) == 12


def words(tasks, count=4):
    return [question(10 * place + number, id=f"{task}-{number}", task=task) for place, task in enumerate(tasks)
            for number in range(count)]


def test_a_reached_budget_leaves_what_is_finished_if_asked_to_and_says_how_to_go_on(home, monkeypatch):
    monkeypatch.setattr("biomistral.translation.stage._AT_ONCE", 4)
    suite = bench(home, words(("nerves", "bones", "signs")))
    prices = {"price_in": 1000, "price_out": 1000, "concurrency": 1}
    with serving() as place:
        run(place, suite, home / "all", use=prices)
        cost = read_manifest(home / "all")["cost"]
    with serving() as place:
        with pytest.raises(UserError, match=r"^--max-cost .* [48] of 12 questions are finished, for [\d.]+, and \d+ answers are "
                                            "remembered: with a higher --max-cost the same command goes on; with --partial"):
            run(place, suite, home / "pt", use={**prices, "max_cost": 0.97 * cost}, cache=home / "own", first_estimate=False)
        assert not (home / "pt").exists()
        run(place, suite, home / "pt", use={**prices, "max_cost": 0.97 * cost}, cache=home / "own", partial=True)
        assert place.twice() == []
        kept = sound(home / "pt")
        facts = read_manifest(home / "pt")
        assert facts["partial"] == {"finished": len(kept), "of": 12}
        assert list(kept) == [one.id for one in words(("nerves", "bones", "signs"))][:len(kept)]
        assert len(kept) in (4, 8)
        assert facts["cost"] <= 0.97 * cost
        assert json.loads((home / "pt" / "benchmark.json").read_text())["partial"] == facts["partial"]
        run(place, suite, home / "whole", use={**prices, "max_cost": 4 * cost}, cache=home / "own")
        assert place.twice() == []
    assert len(sound(home / "whole")) == 12
    assert read_manifest(home / "whole")["partial"] is None


def test_an_estimate_that_is_too_high_says_so_and_stops_nothing(home, caplog):
    suite = bench(home, words(("nerves",)))
    prices = {"price_in": 1000, "price_out": 1000}
    with serving() as place:
        with caplog.at_level("INFO"), pytest.raises(UserError, match=r"^--max-cost 0: 4 requests may cost [\d.]+") as said:
            run(place, suite, home / "none", use={**prices, "max_cost": 0})
        assert place.answered() == []
        there = float(str(said.value).split("cost ")[2].split(" ")[0])  # the estimate of the way there alone
        caplog.clear()
        with caplog.at_level("INFO"):
            run(place, suite, home / "pt", use={**prices, "max_cost": 1.2 * there})
    lines = [line for line in caplog.messages if "requests, about" in line]
    assert [line.partition(":")[0] for line in lines] == ["api to pt", "api to en", "api to en"]
    assert "more than is left of --max-cost" in lines[-1]
    assert len(sound(home / "pt")) == 4
    assert read_manifest(home / "pt")["cost"] < there


def test_nothing_finished_makes_no_partial_benchmark(home):
    with serving() as place, pytest.raises(UserError, match=r"^--max-cost 1: 0 is spent, and the next .* may cost \d+; [^;]*$"):
        run(place, bench(home, words(("nerves",))), home / "pt", {"price_in": 1e6, "price_out": 1e6, "max_cost": 1}, partial=True)
    assert not (home / "pt").exists()


def test_two_servers_have_keys_and_prices_of_their_own_and_one_cap(home, monkeypatch):
    monkeypatch.setenv("BIOMISTRAL_API_KEY", "first")
    monkeypatch.setenv("OTHER", "second")
    suite = bench(home, [question(0), question(1)])
    with serving(said={"1": "always:number"}, key="first") as place, serving(key="second") as other:
        options = {"attempts": 1, "back_translation": False, "second": {"engine": "api", "url": other.url, "model": "better"}}
        with pytest.raises(UserError, match=r"HTTP 401.*BIOMISTRAL_SECOND_API_KEY"):
            run(place, suite, home / "pt", **options)
        run(place, suite, home / "pt", {"price_in": 10, "price_out": 10}, {"key_env": "OTHER", "price_in": 1000}, **options)
        first, second = ([json.loads(body) for body in one.answered()] for one in (place, other))
    assert (len(first), len(second)) == (2, 1)
    facts = read_manifest(home / "pt")
    assert facts["cost"] > 10 * (facts["prompt_tokens"] + facts["completion_tokens"]) / 1e6
    assert sound(home / "pt")["q1"].meta["translation"]["model"] == "better"


def test_a_second_engine_that_is_not_named_is_asked_for(home, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["biomistral", "benchmark", "translate", str(bench(home, [question(0)])), "--to", "pt",
                                      "--engine", "apertium", "--second-url", "http://localhost:1/v1", "--out", str(home / "pt")])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err.strip()
    assert "url is given, but no engine: name that too (--second-engine)" in said
    assert "\n" not in said


def test_a_missing_key_is_said_in_one_line(home, capsys, monkeypatch):
    monkeypatch.delenv("BIOMISTRAL_API_KEY", raising=False)
    with serving(key="secret") as place:
        monkeypatch.setattr(sys, "argv", ["biomistral", "benchmark", "translate", str(bench(home, [question(0)])), "--to", "pt",
                                          "--engine", "api", "--url", place.url, "--model", "words", "--out", str(home / "pt")])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert "BIOMISTRAL_API_KEY" in capsys.readouterr().err
    assert not (home / "pt").exists()


def test_a_killed_run_goes_on_at_the_question_where_it_was(home):
    suite = bench(home, [question(number) for number in range(40)])
    with serving(delay=0.02) as place:
        command = [sys.executable, "-m", "biomistral.cli", "benchmark", "translate", str(suite), "--to", "pt", "--engine", "api",
                   "--url", place.url, "--model", "words", "--concurrency", "2", "--out", str(home / "pt")]
        with subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.DEVNULL) as process:
            while len(place.answered()) < 20:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        assert not (home / "pt").exists()
        run(place, suite, home / "pt", use={"concurrency": 2})
        assert len(place.twice()) <= 2  # those that were in flight
        assert len(set(place.answered())) == 80
    assert len(sound(home / "pt")) == 40
