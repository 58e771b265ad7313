"""Talking to a model: the official client against the server, requests together and alone, a conversation in the terminal."""

import contextlib
import io
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from biomistral.artifact import open_artifact
from biomistral.chat.conversation import Conversation, Turn, encode
from biomistral.chat.model import Talker, load
from biomistral.chat.speech import Ask
from biomistral.chat.terminal import Manner, Terminal
from biomistral.chat.text import Text
from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.models.load import load_model, load_tokenizer
from biomistral.recipe import Input
from biomistral.records import Question, read_rows, write_questions
from biomistral.run import execute
from tiny import make_model

openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("chat") / "pico")


@pytest.fixture(scope="module")
def talker(folder: Path) -> Iterator[Talker]:
    found = load(folder, device="cpu", dtype="float32")
    yield found
    found.speaker.close()


@pytest.fixture(scope="module")
def url(talker: Talker) -> Iterator[str]:
    from biomistral.chat.server import create

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create(talker), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(url: str) -> Any:
    with contextlib.closing(openai.OpenAI(base_url=url, api_key="none", max_retries=0)) as found:
        yield found


def greedy(folder: Path, ids: list[int], count: int) -> list[int]:
    """The plain way: the whole text again for every token."""
    model, said = load_model(folder, torch.float32), list(ids)
    with torch.inference_mode():
        for _ in range(count):
            said.append(int(model(torch.tensor([said])).logits[0, -1].argmax()))
            if said[-1] == 2:
                break
    return said[len(ids):]


PROMPTS = ["Question: fever", "The heart and the", "Answer: metformin 500 mg twice a day. Question: Which", "中文 العربية é", "A"]


def test_sequences_together_say_what_each_says_alone(folder: Path, talker: Talker) -> None:
    tokenizer = load_tokenizer(folder)
    asks = [Ask(tokenizer(text)["input_ids"], longest) for text, longest in zip(PROMPTS, (12, 3, 20, 7, 1), strict=True)]
    speeches = [talker.speaker.say(ask) for ask in asks]
    for ask, speech in zip(asks, speeches, strict=True):
        said = [one.token for one in speech]
        wanted = greedy(folder, list(ask.ids), ask.longest)
        assert said == [token for token in wanted if token != 2]
        assert speech.finish == ("stop" if wanted[-1] == 2 else "length")


def test_one_who_joins_late_changes_nothing_for_the_others(folder: Path, talker: Talker) -> None:
    ids = load_tokenizer(folder)("The heart and the")["input_ids"]
    first = talker.speaker.say(Ask(ids, 200))
    heard = iter(first)
    begun = [next(heard).token for _ in range(5)]
    others = [talker.speaker.say(Ask(ids[:2], 4)), talker.speaker.say(Ask([*ids, *ids], 6))]
    for other in others:
        wanted = greedy(folder, list(other.ask.ids), other.ask.longest)
        assert [one.token for one in other] == [token for token in wanted if token != 2]
    first.cancel()
    rest = [one.token for one in heard]
    assert begun + rest == greedy(folder, ids, 200)[:len(begun + rest)]


def test_draws_are_the_seeds_alone(talker: Talker) -> None:
    ids = talker.tokenizer("Question:")["input_ids"]

    def drawn(seed: int, top_p: float = 0.9) -> list[int]:
        return [one.token for one in talker.speaker.say(Ask(ids, 12, 1.0, top_p, seed))]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(6)}) > 1
    assert drawn(3, 1e-6) == [one.token for one in talker.speaker.say(Ask(ids, 12))]


# ---- the server -----------------------------------------------------------------------------------------------------


def test_the_official_client_lists_completes_and_chats(client: Any, talker: Talker, folder: Path) -> None:
    assert [model.id for model in client.models.list()] == ["pico"]
    done = client.completions.create(model="pico", prompt="The heart and the", max_tokens=8, temperature=0)
    ids = talker.tokenizer("The heart and the")["input_ids"]
    wanted = [token for token in greedy(folder, ids, 8) if token != 2]
    assert done.choices[0].text == talker.tokenizer.decode(wanted, skip_special_tokens=True)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(ids), len(wanted))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is E11.9?"}]
    chat = client.chat.completions.create(model="pico", messages=messages, max_tokens=8, temperature=0)
    again = client.chat.completions.create(model="pico", messages=messages, max_completion_tokens=8, temperature=0)
    assert chat.choices[0].message.content == again.choices[0].message.content
    assert chat.usage.prompt_tokens == len(encode(talker.tokenizer, messages))


@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_is_the_whole_in_pieces(client: Any, chat: bool) -> None:
    if chat:
        asked: dict[str, Any] = {"model": "pico", "messages": [{"role": "user", "content": "fever"}], "max_tokens": 20,
                                 "temperature": 0}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    else:
        asked = {"model": "pico", "prompt": "中文 fever", "max_tokens": 20, "temperature": 0}
        whole = client.completions.create(**asked).choices[0].text
        parts = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        text = "".join(part.choices[0].text for part in parts if part.choices)
    assert text == whole
    assert parts[-2].choices[0].finish_reason in ("length", "stop")
    assert parts[-1].usage.completion_tokens > 0


def test_eight_at_once_are_answered_as_one_by_one(client: Any) -> None:
    def ask(number: int) -> str:
        return str(client.completions.create(model="pico", prompt=PROMPTS[number % 5], max_tokens=10 + number,
                                             temperature=0).choices[0].text)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(8)))
    assert together == [ask(number) for number in range(8)]


def test_log_probabilities_are_the_models(client: Any, folder: Path, talker: Talker) -> None:
    prompt = "Question: fever. Answer:"
    done = client.completions.create(model="pico", prompt=prompt, max_tokens=1, temperature=0, logprobs=5).choices[0].logprobs
    ids = talker.tokenizer(prompt)["input_ids"]
    with torch.inference_mode():
        scores = load_model(folder, torch.float32)(torch.tensor([ids])).logits[0].log_softmax(-1)
    best = scores[-1].topk(5)
    assert list(done.top_logprobs[0].values()) == pytest.approx(best.values.tolist(), abs=1e-5)
    chat = client.chat.completions.create(model="pico", messages=[{"role": "user", "content": "x"}], max_tokens=2, temperature=0,
                                          logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert [len(one.top_logprobs) for one in chat] == [3] * len(chat)
    assert all(one.logprob == max(top.logprob for top in one.top_logprobs) for one in chat)
    echo = client.completions.create(model="pico", prompt=prompt, max_tokens=0, echo=True, logprobs=1).choices[0]
    assert echo.text == prompt
    assert echo.logprobs.token_logprobs[0] is None
    assert echo.logprobs.token_logprobs[1:] == pytest.approx(
        [float(scores[place, token]) for place, token in enumerate(ids[1:])], abs=1e-5)
    assert [prompt[place] for place in echo.logprobs.text_offset] == [
        (talker.tokenizer.decode([token]) or " ")[0] for token in ids]


def test_stop_sequences_end_the_text_before_them(client: Any) -> None:
    whole = client.completions.create(model="pico", prompt="The heart", max_tokens=30, temperature=0).choices[0].text
    stop = whole[6:9]
    done = client.completions.create(model="pico", prompt="The heart", max_tokens=30, temperature=0, stop=[stop]).choices[0]
    assert done.text == whole[:whole.index(stop)]
    assert done.finish_reason == "stop"
    parts = client.completions.create(model="pico", prompt="The heart", max_tokens=30, temperature=0, stop=stop, stream=True)
    assert "".join(part.choices[0].text for part in parts) == done.text


@pytest.mark.parametrize(("asked", "words"), [
    ({"model": "other", "prompt": "x"}, "this server has 'pico'"), ({"model": "pico", "prompt": ""}, "empty"),
    ({"model": "pico", "prompt": "x " * 600}, "context length is 512"),
    ({"model": "pico", "prompt": "x", "max_tokens": -1}, "max_tokens"),
    ({"model": "pico", "prompt": [1, 999_999]}, "not in the vocabulary"),
    ({"model": "pico", "prompt": ["a", "b"]}, "several prompts"),
    ({"model": "pico", "prompt": "x", "extra_body": {"best_of": 3}}, "best_of")])
def test_what_cannot_be_answered_is_refused_in_words(client: Any, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.completions.create(**asked)


def test_evaluating_over_the_server_gives_the_local_engines_answers(tmp_path: Path, folder: Path, url: str) -> None:
    questions = [Question(id=f"{split}{number}", task="toy", split=split, stem=f"fever cough pain {number}?",
                          options=("heart", "lung", "liver"), answer="ABC"[number % 3])
                 for split, count in (("dev", 3), ("test", 7)) for number in range(count)]
    write_questions(tmp_path / "questions.parquet", questions)
    common: dict[str, Any] = {"benchmark": Input(tmp_path / "questions.parquet"), "shot_sets": 2,
                              "protocols": ["letters-0shot", "letters-3shot", "cloze-sum", "chat-0shot"]}
    local = execute(EvaluateSettings(model=Input(folder), dtype="float32", **common), tmp_path / "local")
    served = execute(EvaluateSettings(model="pico", engine="api", url=url, top_logprobs=400, **common), tmp_path / "served")

    here, there = (list(read_rows(one.path / "answers.parquet")) for one in (local, served))
    for mine, other in zip(here, there, strict=True):
        assert [mine[name] for name in SAME] == [other[name] for name in SAME]
        assert mine["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    assert open_artifact(served.path).kind == "evaluate"


SAME = ("protocol", "shot_set", "question", "chosen", "right")


# ---- the terminal ---------------------------------------------------------------------------------------------------


def talk(talker: Talker, lines: list[str], file: Path | None = None,
         conversation: Conversation | None = None) -> tuple[str, Conversation]:
    out, conversation = io.StringIO(), conversation or Conversation()
    Terminal(talker, conversation, Manner(longest=8, temperature=0), file, out).run(iter(lines))
    return out.getvalue(), conversation


def test_a_conversation_goes_on_where_its_file_ended(talker: Talker, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    _, whole = talk(talker, ["/system Be brief.", "fever?", "cough?"])
    talk(talker, ["/system Be brief.", "fever?"], file)
    _, resumed = talk(talker, ["cough?"], file, Conversation.read(file))
    assert resumed.turns == whole.turns
    assert [turn.role for turn in Conversation.read(file).turns] == ["user", "assistant"] * 2
    file.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not a conversation"):
        Conversation.read(file)


def test_the_commands(talker: Talker) -> None:
    said, conversation = talk(talker, ["fever?", "/undo", "/help", "/nonsense", "cough?", "/again", "/system", "/quit", "never"])
    assert [turn.content for turn in conversation.turns if turn.role == "user"] == ["cough?"]
    assert said.count("/undo") == 2
    assert "(nothing)" in said
    assert talk(talker, ["fever?", "/reset"])[1].turns == []


def test_old_turns_are_left_out_where_the_context_ends_and_it_is_said(talker: Talker) -> None:
    turns = [Turn(role=role, content="heart lung kidney " * 12) for _ in range(8) for role in ("user", "assistant")]
    said, conversation = talk(talker, ["fever?"], conversation=Conversation(turns=turns))
    assert "no longer fit" in said
    assert len(conversation.turns) == 18
    said, conversation = talk(talker, ["heart " * 3000, "fever?"])
    assert "send a shorter one" in said
    assert len(conversation.turns) == 2


def test_text_comes_in_whole_characters(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer("é 中文 العربية 🫀", add_special_tokens=False)["input_ids"]
    text = Text(tokenizer)
    pieces = [text.add(token) for token in ids]
    assert "".join(pieces) + text.rest() == "é 中文 العربية 🫀"
    assert not any("�" in piece for piece in pieces)


def test_the_command_reads_a_pipe(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "biomistral.cli", "chat", str(folder), "--temperature", "0", "--max-tokens", "5",
                           "--save", str(tmp_path / "talk.json"), "--device", "cpu"], input="fever?\n/quit\n", text=True,
                          capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True)
    assert "research only" in done.stderr
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["turns"][1]["content"] in done.stdout
    assert math.isfinite(len(saved["turns"]))


def test_whoever_waits_hears_of_a_bug_and_so_does_whoever_comes_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = load(folder, device="cpu", dtype="float32")
    monkeypatch.setattr("biomistral.chat.speaker.threading.excepthook", lambda args: None)
    monkeypatch.setattr("biomistral.chat.rows.Rows.step", lambda *args: 1 // 0)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="thread"):
            list(broken.speaker.say(Ask([1, 5, 6], 4)))
    broken.speaker.close()


def test_a_port_that_is_taken_is_said_in_a_line(folder: Path) -> None:
    from biomistral.chat.server import serve

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match=r"--port .* in use.*; choose another"):
        serve(load(folder, device="cpu", dtype="float32"), "127.0.0.1", taken.getsockname()[1])
