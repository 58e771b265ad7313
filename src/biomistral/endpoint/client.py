"""One request at a time until it is answered: what may pass is tried again, what will not ends in one line."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from biomistral import __version__
from biomistral.endpoint.account import Account
from biomistral.endpoint.connection import BrokenError, Connections, Response, UnreachedError
from biomistral.endpoint.pace import Pace
from biomistral.endpoint.place import Place, words_of
from biomistral.endpoint.waits import LONGEST_ASKED_SECONDS, asked_for, backoff
from biomistral.errors import UserError
from biomistral.progress import log
from biomistral.recipe import Requests

_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_REFUSED = (400, 413, 422)
_FIRST_TRIES = 3
"""Where nobody listens, and nothing was ever answered: a mistyped URL is said after two seconds, not after two minutes."""

_SAY_EVERY_SECONDS = 10.0

class RefusedError(Exception):
    """The server says that this very request is wrong: asked again, it would say so again."""


class ClosedError(Exception):
    """Another request failed for good: this one is not tried again."""


class _AgainError(Exception):
    """A fault that may pass. ``wait``: seconds the server asks for; ``lost``: an answer may have been made, and charged;
    ``nobody``: no server was reached."""

    def __init__(self, why: str, wait: float | None = None, lost: bool = False, nobody: bool = False) -> None:
        super().__init__(why)
        self.wait, self.lost, self.nobody = wait, lost, nobody


@dataclass(frozen=True)
class Request:
    """A POST of ``body`` to ``route``; tokens as estimated; ``read`` takes what is needed out of the reply's JSON, as plain data,
    and raises a ValueError if the reply has not the shape it should have."""

    key: str
    route: str
    body: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    read: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Reply:
    """What was read, the tokens as the server ``counted`` them (or as estimated), and how long the last try took."""

    value: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    counted: bool
    seconds: float


class Client:
    """Asks one server, for as long as its ``async with`` lasts."""

    def __init__(self, place: Place, use: Requests, account: Account) -> None:
        self.place, self.use, self.account = place, use, account
        self.pace = Pace(use.requests_per_minute, use.tokens_per_minute)
        self._closing, self._heard = asyncio.Event(), asyncio.Event()
        self._answered, self._said = False, 0.0
        self._connections = Connections(place.url, {
            "Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/json",
            "User-Agent": f"biomistral/{__version__}", **place.headers()})

    async def __aenter__(self) -> "Client":
        await self._connections.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._connections.__aexit__(kind, error, trace)

    def close(self) -> None:
        """Begin nothing new; what is in flight may end."""
        self._closing.set()

    async def heard(self, seconds: float) -> None:
        """Wait until the server has said anything at all, but not for longer."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), seconds)

    async def ask(self, request: Request, failures: int) -> Reply | float:
        """The reply to a request that has failed so often; or, if it fails once more, the seconds until it may be sent again.

        Raises:
            RefusedError: the server refuses this request itself (400, 413, 422).
            ClosedError: `close` was called.
            UserError: it was sent as often as the settings allow; the server cannot be used; the cap is reached.
        """
        cost = await self._turn(request)
        self.account.send(request.key, request.prompt_tokens, request.completion_tokens)
        try:
            return await self._once(request)
        except _AgainError as error:
            if error.lost:
                self.account.lose(request.key, request.prompt_tokens, request.completion_tokens)
            else:
                self.account.spare(request.key)
            return self._wait(error, failures + 1)
        except (RefusedError, UserError):
            self.account.spare(request.key)
            raise
        finally:
            self._heard.set()
            self.account.release(cost)

    async def _turn(self, request: Request) -> float:
        """Wait until this request may go; returns what was set aside for it."""
        await self.sleep(self.pace.turn(request.prompt_tokens + request.completion_tokens))
        while (seconds := self.pace.held()) > 0:
            await self.sleep(seconds)
        cost = self.account.cost(request.prompt_tokens, request.completion_tokens)
        while not self.account.reserve(cost):
            await self.sleep(0.05)
        return cost

    async def sleep(self, seconds: float) -> None:
        """
        Raises:
            ClosedError: `close` was called, before or meanwhile.
        """
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)
        if self._closing.is_set():
            raise ClosedError

    def _wait(self, error: _AgainError, failures: int) -> float:
        """Seconds until a request that failed so often is sent again."""
        most = min(self.use.tries, _FIRST_TRIES) if error.nobody and not self._answered else self.use.tries
        where = f"{self.place.url}: {error}"
        if failures >= most:
            raise UserError(f"{where}, {failures} times in a row; see that the server runs and --url is right, then run the same "
                            "command again: what was answered is kept") from error
        if error.wait is not None and error.wait > LONGEST_ASKED_SECONDS:
            raise UserError(f"{where}; it asks to wait for {error.wait:.0f} s: run the same command again then") from error
        if error.wait is not None:
            self.pace.hold(error.wait)
        wait = backoff(failures) if error.wait is None else error.wait + backoff(1) / 4
        if time.monotonic() - self._said > _SAY_EVERY_SECONDS:
            self._said = time.monotonic()
            log.info("%s; again in %.1f s", where, wait)
        return wait

    async def _once(self, request: Request) -> Reply:
        started = time.perf_counter()
        body = json.dumps(request.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        try:
            async with asyncio.timeout(self.use.timeout):
                answer = await self._connections.post(request.route, body.encode("utf-8", "replace"))
        except TimeoutError as error:
            raise _AgainError(f"no answer within {self.use.timeout:g} s (--timeout)", lost=True) from error
        except UnreachedError as error:
            raise self._unreached(error) from error
        except BrokenError as error:
            raise _AgainError(str(error), lost=True) from error
        self._judge(request, answer)
        try:
            data = json.loads(answer.body)
            value = request.read(data)
        except ValueError as error:  # JSON cut off, not UTF-8, or not the shape
            raise _AgainError(f"its answer cannot be read ({self.place.without_key(str(error))})", lost=True) from error
        self._answered = True
        usage = _usage(data)
        tokens = usage or (request.prompt_tokens, request.completion_tokens)
        self.account.count(*tokens)
        return Reply(value, *tokens, usage is not None, time.perf_counter() - started)

    def _unreached(self, error: UnreachedError) -> _AgainError:
        """
        Raises:
            UserError: the server shows a certificate that is not to be trusted.
        """
        if error.certificate is not None:
            raise UserError(f"{self.place.url}: {error.certificate}; its certificate is not trusted here") from error
        return _AgainError(str(error), nobody=True)

    def _judge(self, request: Request, answer: Response) -> None:
        """Raise what the status of an answer means, if it is not 200."""
        status = answer.status
        if status == 200:
            return
        said = self.place.without_key(_said(answer))
        where = f"{self.place.url}/{request.route}: HTTP {status}"
        if status in _AGAIN and b"insufficient_quota" not in answer.body:
            raise _AgainError(f"HTTP {status} {said}", asked_for(answer.headers))
        if status in _REFUSED:
            raise RefusedError(said)
        if status in (401, 403):
            raise UserError(f"{where}: {said}; put the server's key into the environment variable "
                            f"{self.use.key_env or 'that --key-env names'}")
        if 300 <= status < 400:
            raise UserError(f"{where}: redirects to {answer.headers.get('location', '?')}, which is not followed; give that as "
                            "--url")
        hint = "; see that --model is a name it serves, and that it has this route" if status == 404 else ""
        raise UserError(f"{where}: {said}{hint}")


def _said(answer: Response) -> str:
    try:
        return words_of(json.loads(answer.body))
    except ValueError:
        return answer.body.decode("utf-8", "replace")


def _usage(data: Any) -> tuple[int, int] | None:
    """The tokens of prompt and answer that a server counted."""
    usage = data.get("usage") if isinstance(data, dict) else None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    if len(counts) != 2 or not isinstance(counts[0], int):
        return None
    return counts[0], counts[1] if isinstance(counts[1], int) else 0

