"""Limits of rate and of money, waits, and where a server is, by hand-worked cases and laws."""

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomistral.endpoint.account import Account, estimated_tokens
from biomistral.endpoint.client import Reply
from biomistral.endpoint.journal import Journal
from biomistral.endpoint.pace import Pace
from biomistral.endpoint.place import Place, find, words_of
from biomistral.endpoint.waits import asked_for, backoff
from biomistral.errors import UserError
from biomistral.recipe import Requests


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 400)), min_size=1, max_size=80), st.floats(1, 100),
       st.floats(500, 5000))
def test_no_minute_holds_more_than_the_limits(arrivals, requests_per_minute, tokens_per_minute):
    now = [0.0]
    pace = Pace(requests_per_minute, tokens_per_minute, clock=lambda: now[0])
    starts = []
    for wait, tokens in arrivals:
        now[0] += wait
        starts.append((now[0] + pace.turn(tokens), tokens))
    for begin, _ in starts:
        minute = [tokens for start, tokens in starts if begin <= start < begin + 60 - 1e-6]
        assert len(minute) <= requests_per_minute + 1  # the one that opens the minute
        assert sum(minute[:-1]) <= tokens_per_minute + 1e-6


def test_without_limits_nothing_waits_and_a_held_way_is_held_for_all():
    now = [5.0]
    pace = Pace(clock=lambda: now[0])
    assert [pace.turn(10_000) for _ in range(5)] == [0.0] * 5
    assert pace.held() == 0
    pace.hold(3)
    pace.hold(1)
    now[0] = 6.5
    assert pace.held() == pytest.approx(1.5)


def test_waits_double_up_to_a_minute():
    for failures, most in ((1, 1), (2, 2), (5, 16), (7, 60), (40, 60)):
        waits = [backoff(failures) for _ in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most


@pytest.mark.parametrize(("headers", "seconds"), [
    ({"retry-after": "7"}, 7), ({"retry-after": "0.5"}, 0.5), ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    ({}, None), ({"retry-after": "soon"}, None), ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0)])
def test_what_a_server_asks_to_wait(headers, seconds):
    assert asked_for(headers) == seconds


def test_a_date_to_wait_for():
    assert asked_for({"retry-after": email.utils.formatdate(time.time() + 30, usegmt=True)}) == pytest.approx(30, abs=2)


def test_the_cap_counts_what_is_spent_and_what_is_in_flight():
    account = Account.of(Requests(price_in=1.0, price_out=2.0, max_cost=1.0))
    assert account.cost(500_000, 100_000) == pytest.approx(0.7)
    assert account.reserve(0.7)
    assert not account.reserve(0.4)  # it may still fit, once the first is known
    account.release(0.7)
    account.count(300_000, 50_000)
    assert account.spent == pytest.approx(0.4)
    assert account.reserve(0.4)
    with pytest.raises(UserError, match=r"^--max-cost 1: 0\.4 is spent, and the next request may cost 0\.61; what"):
        account.reserve(0.61)


def test_the_estimate_in_words():
    said = Account().estimate([(100, 1), (200, 1)])
    assert said == "2 requests, about 300 prompt tokens, at most 2 of answers: no prices given"
    assert Account(10, 0).estimate([(1_000_000, 1)]).endswith(": may cost 10")
    with pytest.raises(UserError, match=r"--max-cost 3: 1 requests may cost 4 \(2,000,000 prompt tokens, 0 of answers"):
        Account(2, 0, 3).estimate([(2_000_000, 0)])


def test_estimated_tokens_are_rather_too_many():
    text = "What is the description of the medical code E11.9 in ICD10CM? Type 2 diabetes mellitus without complications."
    assert 24 <= estimated_tokens(text) <= 40
    assert estimated_tokens("") == 1


def test_keys_are_never_shown(monkeypatch):
    monkeypatch.setenv("A_KEY", " sk-123\n")
    place = find("https://example.org/", "A_KEY")
    assert place == Place("https://example.org/v1", "sk-123")
    assert "sk-123" not in repr(place)
    assert place.headers() == {"Authorization": "Bearer sk-123"}
    assert place.without_key("Incorrect key\n sk-123 given") == "Incorrect key *** given"
    assert find("http://[::1]:8000/api/v2/", "NOT_SET").headers() == {}
    monkeypatch.setenv("A_KEY", "sk\n1")
    with pytest.raises(UserError, match="A_KEY: holds characters that no key has"):
        find("https://example.org", "A_KEY")


def test_words_of_errors():
    assert words_of({"error": {"message": "no"}}) == words_of({"detail": "no"}) == words_of({"error": "no"}) == "no"
    assert words_of({"error": {"message": "", "type": "overloaded"}}) == "overloaded"
    assert words_of([1]) == "[1]"


def test_a_journal_takes_up_whole_lines_and_what_they_cost(tmp_path):
    reply = Reply({"said": "é\u2028\n"}, 1000, 10, True, 0.5)
    journal = Journal(tmp_path / "kept" / "answers.jsonl", Account())
    journal.write("a", reply)
    journal.write("b", reply)
    journal.close()
    file = tmp_path / "kept" / "answers.jsonl"
    file.write_bytes(file.read_bytes() + b'{"key": "c", "val')
    account = Account(1000.0, 0)
    again = Journal(file, account)
    assert list(again.entries) == ["a", "b"]
    assert again.entries["b"]["value"] == {"said": "é\u2028\n"}
    assert account.spent == 2.0
    again.write("c", reply)
    again.close()
    assert list(Journal(file, Account()).entries) == ["a", "b", "c"]
