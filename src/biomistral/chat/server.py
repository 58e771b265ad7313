"""A server for one model: /v1/models, /v1/completions and /v1/chat/completions, whole or streamed."""

import json
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.responses import Response

from biomistral import __version__
from biomistral.chat.conversation import encode
from biomistral.chat.model import Talker
from biomistral.chat.protocol import (
    ChatAsked,
    CompletionAsked,
    chat_logprobs,
    completion_logprobs,
    head,
    usage,
)
from biomistral.chat.speech import Ask, Said, Speech
from biomistral.chat.text import Pieces, Text
from biomistral.errors import UserError

_WAITING = 1024
"""Requests that may wait in threads for the model."""

_DEFAULT_TOKENS = 16
"""Of a completion that does not say; OpenAI's own."""


def create(talker: Talker) -> FastAPI:
    """The application that serves a model."""
    app = FastAPI(title="biomistral", version=__version__, docs_url=None, redoc_url=None)
    desk = _Desk(talker, Pieces(talker.tokenizer))
    waiting: list[anyio.CapacityLimiter] = []

    async def threaded(answer: Any, asked: Any) -> Response:
        if not waiting:  # it can be made only inside the running loop
            waiting.append(anyio.CapacityLimiter(_WAITING))
        found: Response = await anyio.to_thread.run_sync(answer, asked, limiter=waiting[0])
        return found

    @app.exception_handler(UserError)
    def wrong(request: Request, error: UserError) -> Response:
        return _refusal(400, str(error))

    @app.exception_handler(RequestValidationError)
    def misshapen(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _refusal(400, f"{'.'.join(str(part) for part in first['loc'][1:]) or 'body'}: {first['msg']}")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": talker.name, "object": "model", "created": 0, "owned_by": "biomistral",
                                            "max_model_len": talker.context}]}

    @app.post("/v1/completions", response_model=None)
    async def completions(asked: CompletionAsked) -> Response:
        return await threaded(desk.complete, asked)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(asked: ChatAsked) -> Response:
        return await threaded(desk.chat, asked)

    return app


def _refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}, status)


@dataclass
class _Reply:
    """A speech, the text it becomes, and the tokens said so far."""

    speech: Speech
    text: Text
    tokens: list[Said]

    def parts(self) -> Iterator[tuple[str, Said | None]]:
        """Pieces of text, each with its token; what was held back comes last, without one."""
        for said in self.speech:
            self.tokens.append(said)
            yield self.text.add(said.token), said
            if self.text.stopped:
                self.speech.cancel()
                return
        if rest := self.text.rest():
            yield rest, None

    @property
    def finish(self) -> str:
        return "stop" if self.text.stopped else str(self.speech.finish)


@dataclass
class _Desk:
    talker: Talker
    pieces: Pieces

    def complete(self, asked: CompletionAsked) -> Response:
        self._check(asked.model)
        tokenizer = self.talker.tokenizer
        if isinstance(asked.prompt, list) and any(isinstance(one, str) for one in asked.prompt):
            if len(asked.prompt) != 1:
                return _refusal(400, "prompt: several prompts in one request; send a request each, they are computed together")
            asked.prompt = str(asked.prompt[0])
        ids = list(tokenizer(asked.prompt)["input_ids"]) if isinstance(asked.prompt, str) else [int(one) for one in asked.prompt]
        longest = _DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
        reply = self._begin(ids, longest, asked, asked.logprobs or 0, asked.echo)
        before = asked.prompt if isinstance(asked.prompt, str) else tokenizer.decode(ids)

        def choice(text: str, tokens: list[Said], finish: str | None) -> dict[str, Any]:
            given = completion_logprobs(tokens, self.pieces) if asked.logprobs is not None else None
            return {"index": 0, "text": text, "logprobs": given, "finish_reason": finish}

        if asked.stream:
            return self._stream("text_completion", reply, choice, len(ids), asked.stream_options)
        said = "".join(text for text, _ in reply.parts())
        body = choice(before + said if asked.echo else said, [*reply.speech.prompt, *reply.tokens], reply.finish)
        if asked.echo and body["logprobs"] and isinstance(asked.prompt, str):
            starts = [start for start, _ in tokenizer(asked.prompt, return_offsets_mapping=True)["offset_mapping"]]
            body["logprobs"]["text_offset"][:len(starts)] = starts
        return JSONResponse({**head("text_completion", self.talker.name), "choices": [body],
                             "usage": usage(len(ids), len(reply.tokens))})

    def chat(self, asked: ChatAsked) -> Response:
        self._check(asked.model)
        if (asked.response_format or {}).get("type", "text") != "text":
            return _refusal(400, "response_format: this server does not constrain answers; ask for text")
        try:
            messages = [{"role": message.role, "content": message.text()} for message in asked.messages]
        except ValueError as error:
            return _refusal(400, f"messages: {error}")
        ids = encode(self.talker.tokenizer, messages)
        longest = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
        room = self.talker.context - len(ids)
        reply = self._begin(ids, room if longest is None else longest, asked, asked.top_logprobs if asked.logprobs else 0, False)

        def choice(text: str, tokens: list[Said], finish: str | None) -> dict[str, Any]:
            given = chat_logprobs(tokens, self.pieces) if asked.logprobs else None
            if asked.stream:
                return {"index": 0, "delta": {"role": "assistant", "content": text}, "logprobs": given, "finish_reason": finish}
            return {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": given,
                    "finish_reason": finish}

        if asked.stream:
            return self._stream("chat.completion.chunk", reply, choice, len(ids), asked.stream_options)
        said = "".join(text for text, _ in reply.parts())
        return JSONResponse({**head("chat.completion", self.talker.name), "choices": [choice(said, reply.tokens, reply.finish)],
                             "usage": usage(len(ids), len(reply.tokens))})

    def _check(self, model: str) -> None:
        if model != self.talker.name:
            raise UserError(f"model '{model}': this server has '{self.talker.name}'")

    def _begin(self, ids: list[int], longest: int, asked: CompletionAsked | ChatAsked, top: int, echo: bool) -> _Reply:
        """
        Raises:
            UserError: the prompt is empty, or longer than the model can read.
        """
        if not ids:
            raise UserError("prompt: it is empty")
        size = len(self.talker.tokenizer)
        if wrong := [token for token in ids if not 0 <= token < size]:
            raise UserError(f"prompt: token {wrong[0]} is not in the vocabulary of {size}")
        if len(ids) + longest > self.talker.context or (longest and len(ids) >= self.talker.context):
            raise UserError(f"prompt: {len(ids)} tokens and an answer of {longest}: the model's context length is "
                            f"{self.talker.context} tokens; shorten the prompt, or lower max_tokens")
        seed = secrets.randbelow(2 ** 31) if asked.seed is None else asked.seed % 2 ** 31
        ask = Ask(ids, longest, asked.temperature, asked.top_p, seed, top, echo)
        return _Reply(self.talker.speaker.say(ask), Text(self.talker.tokenizer, asked.stops), [])

    def _stream(self, kind: str, reply: _Reply, choice: Any, prompt: int, options: dict[str, Any] | None) -> Response:
        """Server-sent events, one a token; whoever hangs up is computed for no longer."""
        start = head(kind, self.talker.name)

        def events() -> Iterator[str]:
            try:
                for text, said in reply.parts():
                    yield _event({**start, "choices": [choice(text, [said] if said else [], None)]})
                yield _event({**start, "choices": [choice("", [], reply.finish)]})
                if (options or {}).get("include_usage"):
                    yield _event({**start, "choices": [], "usage": usage(prompt, len(reply.tokens))})
                yield "data: [DONE]\n\n"
            except UserError as error:
                yield _event({"error": {"message": str(error), "type": "server_error"}})
            finally:
                reply.speech.cancel()

        return StreamingResponse(events(), media_type="text/event-stream")


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def serve(talker: Talker, host: str, port: int) -> None:
    """Serve until interrupted.

    Raises:
        UserError: the port is taken.
    """
    import uvicorn

    try:  # uvicorn would end the process itself
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        talker.speaker.close()
        raise UserError(f"--host {host} --port {port}: {error.strerror}; choose another") from error
    with listening:
        try:
            uvicorn.Server(uvicorn.Config(create(talker), log_level="warning", access_log=False)).run(sockets=[listening])
        finally:
            talker.speaker.close()
