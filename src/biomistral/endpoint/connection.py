"""One connection to a server, kept open from request to request: HTTP/1.1 by h11, over asyncio's own streams.

A general client spent 1.7 ms of CPU on a request, most of it on layers that one connection with one request at a time has no use
for; this spends 0.55, and a request leaves in one piece.
"""

import asyncio
import select
from collections.abc import Sequence
from dataclasses import dataclass

import h11

from biomistral.endpoint.route import Route

Headers = Sequence[tuple[str, str]]

_READ_BYTES = 1 << 16
_SECOND_ADDRESS_SECONDS = 0.25
"""A name may have an address that does not answer: how long until the next one is tried beside it (RFC 8305)."""


class UnreachedError(Exception):
    """No connection came about."""


class BrokenError(Exception):
    """The connection ended, or spoke no HTTP, after a request had gone out: nobody knows what the server did with it."""


@dataclass(frozen=True)
class Response:
    """``headers`` by their names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


def _has_news(writer: asyncio.StreamWriter) -> bool:
    """Whether there is something to read on an idle connection, which can only be its end: servers close those that were idle for
    some seconds, and the loop may not have seen that yet if it was busy. A request sent there would be lost."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Connection:
    """Opened when it is first used, and again whenever the other side has closed it."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._http = h11.Connection(h11.CLIENT)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, headers: Headers, body: bytes) -> Response:
        """
        Raises:
            UnreachedError, BrokenError: see there.
        """
        await self._open()
        request = h11.Request(method="POST", target=self._route.target(path), headers=[
            ("Host", self._route.host_header), *headers, *self._route.proxy_headers(), ("Content-Length", str(len(body)))])
        whole = False
        try:
            response = await self._exchange(request, body)
            self._next()
            whole = True
        except (OSError, h11.RemoteProtocolError) as error:
            raise BrokenError(str(error) or type(error).__name__) from error
        finally:
            if not whole:  # also where a time limit cancels this
                self.close()
        return response

    def close(self) -> None:
        if self._streams:
            self._streams[1].transport.abort()
            self._streams = None

    async def _open(self) -> None:
        if self._streams and not self._streams[0].at_eof() and not _has_news(self._streams[1]):
            return
        self.close()
        self._http = h11.Connection(h11.CLIENT)
        try:
            self._streams = await asyncio.open_connection(*self._route.peer, ssl=self._route.first_tls,
                                                          happy_eyeballs_delay=_SECOND_ADDRESS_SECONDS)
            if self._route.tunnel:
                await self._dig(self._streams[1], self._route.tunnel)
        except (OSError, h11.RemoteProtocolError) as error:
            self.close()
            raise UnreachedError(str(error) or type(error).__name__) from error

    async def _dig(self, writer: asyncio.StreamWriter, target: str) -> None:
        """A tunnel through the proxy, and TLS with the server inside it."""
        answer = await self._exchange(h11.Request(method="CONNECT", target=target,
                                                  headers=[("Host", target), *self._route.proxy_headers(tunnel=True)]), b"")
        if not 200 <= answer.status < 300:
            raise ConnectionError(f"the proxy {self._route.peer[0]} answers HTTP {answer.status}")
        assert self._route.tls
        await writer.start_tls(self._route.tls, server_hostname=self._route.host)
        self._http = h11.Connection(h11.CLIENT)

    async def _exchange(self, request: h11.Request, body: bytes) -> Response:
        assert self._streams
        reader, writer = self._streams
        writer.write(b"".join(self._http.send(event) or b"" for event in (request, h11.Data(data=body), h11.EndOfMessage())))
        head, parts = None, []
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(_READ_BYTES)
                if not data and head is None:
                    raise ConnectionError("the server closed the connection without an answer")
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                parts.append(event.data)
            elif isinstance(event, (h11.EndOfMessage, h11.PAUSED)):
                break
        assert head
        return Response(head.status_code, {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers},
                        b"".join(parts))

    def _next(self) -> None:
        """Ready for the next request, if both sides keep the connection."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self.close()
