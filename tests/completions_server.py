"""A server that speaks OpenAI's protocol, in a process of its own: a model that is a hash of its prompt, and faults to order.

    python completions_server.py '{"faults": ["429", "drop"], "top": 5, ...}'     # prints its port, then serves

Every fault strikes each request (by its body) once, in the order given, before it is answered. GET /log says what was answered,
and with which headers, so that a test can see what was asked twice.
"""

import hashlib
import json
import math
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = ["A", " A", "B", " B", "C", " C", "D", " D", "E", " E", "\n", "The", " the", "(", ")", " I", " fever", " cough", " x",
          "0", " 1", " 2", " 3", " 4", " 5"]


def scores(text: str) -> dict[str, float]:
    """Log-probability of each token after a text."""
    raw = {token: 3 * hashlib.sha256(f"{text}|{token}".encode()).digest()[0] / 255 for token in TOKENS}
    total = math.log(sum(map(math.exp, raw.values())))
    return {token: value - total for token, value in raw.items()}


def echoed(text: str, start: int) -> dict[str, Any]:
    """Each word of a text as a token, with the log-probability that the text before it gives."""
    offsets = [place for place in range(len(text)) if place == 0 or text[place] == " "]
    ends = [*offsets[1:], len(text)]
    values = [None, *(-hashlib.sha256(text[:end].encode()).digest()[0] / 64 for end in ends[1:])]
    return {"tokens": [text[a:b] for a, b in zip(offsets, ends, strict=True)], "text_offset": offsets, "token_logprobs": values}


@dataclass
class State:
    faults: list[str] = field(default_factory=list)
    top: int = 20
    logprobs: bool = True
    echo: bool = True
    hidden: str = ""
    style: str = "openai"
    usage: bool = True
    delay: float = 0.0
    key: str = ""
    longest: int = 10_000_000
    keeps: int = 10_000_000
    struck: dict[str, int] = field(default_factory=dict)
    answered: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    flying: int = 0
    most: int = 0
    lock: Any = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        state = self.state
        self.reply(200, {"answered": state.answered, "times": state.times, "ends": state.ends, "most": state.most})

    def do_POST(self) -> None:
        state, raw = self.state, self.rfile.read(int(self.headers["Content-Length"]))
        with state.lock:
            state.flying += 1
            state.most = max(state.most, state.flying)
            state.times.append(time.time())
            number = state.struck.get(raw.decode(), 0)
            state.struck[raw.decode()] = number + 1
        try:
            time.sleep(state.delay)
            if state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
                self.reply(401, {"error": {"message": f"wrong key: {self.headers.get('Authorization')}"}})
            elif number < len(state.faults):
                self.fault(state.faults[number], json.loads(raw))
            else:
                self.answer(raw.decode())
        finally:
            with state.lock:
                state.flying -= 1
                state.ends.append(time.time())

    def fault(self, name: str, body: dict[str, Any]) -> None:
        if name == "drop":
            self.close_connection = True
            self.connection.close()
        elif name == "slow":
            time.sleep(1.5)
            self.reply(200, self.completed(body))
        elif name == "truncated":
            whole = json.dumps(self.completed(body)).encode()
            self.start(200, len(whole), {})
            self.wfile.write(whole[:-20])
            self.close_connection = True
        elif name == "half-json":
            whole = json.dumps(self.completed(body)).encode()[:-20]
            self.start(200, len(whole), {})
            self.wfile.write(whole)
        elif name == "schema":
            self.reply(200, {"choices": [{"finish_reason": "stop"}]})
        elif name.startswith("429:"):
            self.reply(429, {"error": {"message": "too many"}}, {"Retry-After": name.partition(":")[2]})
        elif name.startswith("400:"):
            self.reply(400, {"error": {"message": name.partition(":")[2]}})
        else:
            self.reply(int(name), {"error": {"message": "broken"}})

    def answer(self, raw: str) -> None:
        body, state = json.loads(raw), self.state
        if not state.echo and body.get("echo"):
            self.reply(400, {"error": "Only no echo is supported"})
        elif max(int(body.get("logprobs") or 0), int(body.get("top_logprobs") or 0)) > state.top:
            self.reply(400, {"error": {"message": f"logprobs must be at most {state.top}"}})
        elif len(str(body.get("prompt") or body.get("messages"))) > state.longest:
            self.reply(400, {"error": {"message": "This model's maximum context length is 10 tokens"}})
        else:
            with state.lock:
                state.answered.append(raw)
            self.reply(200, self.completed(body))

    def completed(self, body: dict[str, Any]) -> dict[str, Any]:
        chat = "messages" in body
        prompt = json.dumps(body["messages"]) if chat else body["prompt"]
        if len(prompt.split()) > self.state.keeps:
            prompt = " ".join(prompt.split()[-self.state.keeps:])
        found = scores(prompt)
        best = max(found, key=lambda token: found[token])
        text = best if body["max_tokens"] == 1 else f"{best}) because"
        count = int(body.get("top_logprobs") or body.get("logprobs") or 0)
        logprobs = None
        if body.get("echo"):
            text = prompt + best
            logprobs = echoed(text, len(prompt))
        elif count and self.state.logprobs:
            top = sorted(found.items(), key=lambda pair: -pair[1])
            top = [pair for pair in top if pair[0].strip() not in self.state.hidden or not pair[0].strip()][:count]
            listed = [{"token": token, "logprob": value} for token, value in top]
            logprobs = ({"content": [{**listed[0], "top_logprobs": listed}]} if chat or self.state.style == "llama.cpp"
                        else {"tokens": [best], "token_logprobs": [found[best]], "top_logprobs": [dict(top)]})
        choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        usage = {"usage": {"prompt_tokens": len(prompt.split()), "completion_tokens": 1}} if self.state.usage else {}
        return {"id": "x", "choices": [{"index": 0, **choice, "logprobs": logprobs}], **usage}

    def start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def reply(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        whole = json.dumps(data).encode()
        try:
            self.start(status, len(whole), headers or {})
            self.wfile.write(whole)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    Handler.state = State(**json.loads(sys.argv[1]))
    server = Server(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
