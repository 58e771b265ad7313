"""One request at a time until it is answered: what may pass is tried again, what will not ends in one line."""

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx2

from biomistral import __version__
from biomistral.endpoint.account import Account
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
    """Connections to one server, for as long as its ``with`` lasts."""

    def __init__(self, place: Place, use: Requests, account: Account) -> None:
        self.place, self.use, self.account = place, use, account
        self.pace = Pace(use.requests_per_minute, use.tokens_per_minute)
        self._closing = asyncio.Event()
        self._answered, self._said = False, 0.0
        trusted = httpx2.create_ssl_context()  # one for all: each reads the certificates, 85 ms of CPU
        self._pools = [httpx2.AsyncClient(
            timeout=None, follow_redirects=False, verify=trusted,  # a redirect would take the key along
            headers={"User-Agent": f"biomistral/{__version__}", **place.headers()},
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=1))
            for _ in range(use.concurrency)]
        self._idle = list(self._pools)
        """One connection each: a pool looks at all of its own whenever one is taken or given back."""

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        for pool in self._pools:
            await pool.aclose()

    def close(self) -> None:
        """Begin nothing new; what is in flight may end."""
        self._closing.set()

    async def ask(self, request: Request) -> Reply:
        """The reply to a request.

        Raises:
            RefusedError: the server refuses this request itself (400, 413, 422).
            ClosedError: `close` was called.
            UserError: it was sent as often as the settings allow; the server cannot be used; the cap is reached.
        """
        failures = 0
        while True:
            cost = await self._turn(request)
            self.account.send(request.key, request.prompt_tokens, request.completion_tokens)
            try:
                return await self._once(request)
            except _AgainError as error:
                failures += 1
                if error.lost:
                    self.account.lose(request.key, request.prompt_tokens, request.completion_tokens)
                else:
                    self.account.spare(request.key)
                await self._sleep(self._wait(error, failures))
            except (RefusedError, UserError):
                self.account.spare(request.key)
                raise
            finally:
                self.account.release(cost)

    async def _turn(self, request: Request) -> float:
        """Wait until this request may go; returns what was set aside for it."""
        await self._sleep(self.pace.turn(request.prompt_tokens + request.completion_tokens))
        while (seconds := self.pace.held()) > 0:
            await self._sleep(seconds)
        cost = self.account.cost(request.prompt_tokens, request.completion_tokens)
        while not self.account.reserve(cost):
            await self._sleep(0.05)
        return cost

    async def _sleep(self, seconds: float) -> None:
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
        pool = self._idle.pop()
        try:
            async with asyncio.timeout(self.use.timeout):
                answer = await pool.post(f"{self.place.url}/{request.route}", json=request.body)
        except TimeoutError as error:
            raise _AgainError(f"no answer within {self.use.timeout:g} s (--timeout)", lost=True) from error
        except httpx2.TransportError as error:
            raise self._unreached(error) from error
        finally:
            self._idle.append(pool)
        self._judge(request, answer)
        try:
            data = answer.json()
            value = request.read(data)
        except ValueError as error:  # JSON cut off, not UTF-8, or not the shape
            raise _AgainError(f"its answer cannot be read ({self.place.without_key(str(error))})", lost=True) from error
        self._answered = True
        usage = _usage(data)
        tokens = usage or (request.prompt_tokens, request.completion_tokens)
        self.account.count(*tokens)
        return Reply(value, *tokens, usage is not None, time.perf_counter() - started)

    def _unreached(self, error: httpx2.TransportError) -> _AgainError:
        """
        Raises:
            UserError: the server shows a certificate that is not to be trusted.
        """
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise UserError(f"{self.place.url}: {cause.verify_message}; its certificate is not trusted here") from error
            cause = cause.__cause__ or cause.__context__
        nobody = isinstance(error, httpx2.ConnectError)
        return _AgainError(str(error) or type(error).__name__, lost=not nobody, nobody=nobody)

    def _judge(self, request: Request, answer: httpx2.Response) -> None:
        """Raise what the status of an answer means, if it is not 200."""
        status = answer.status_code
        if status == 200:
            return
        said = self.place.without_key(_said(answer))
        where = f"{self.place.url}/{request.route}: HTTP {status}"
        if status in _AGAIN and "insufficient_quota" not in answer.text:
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


def _said(answer: httpx2.Response) -> str:
    try:
        return words_of(answer.json())
    except ValueError:
        return answer.text


def _usage(data: Any) -> tuple[int, int] | None:
    """The tokens of prompt and answer that a server counted."""
    usage = data.get("usage") if isinstance(data, dict) else None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    if len(counts) != 2 or not isinstance(counts[0], int):
        return None
    return counts[0], counts[1] if isinstance(counts[1], int) else 0

