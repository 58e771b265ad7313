"""Connections to a server, kept open from request to request, by aiohttp: its parser is compiled.

With 1,000 requests in flight one takes a third of the CPU that it takes in httpx2.
"""

import resource
import ssl
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from biomistral.errors import UserError

_IDLE_SECONDS = 4.0
"""A connection idle for longer is not used again: uvicorn, and so vLLM, closes it after 5 s, and a request that leaves then is
lost, and may be charged."""

_OTHER_FILES = 256
"""Beside connections: what is read and written, and what the process had open before."""


class UnreachedError(Exception):
    """No connection came about. ``certificate``: why the server's is not trusted, if that is why."""

    def __init__(self, why: str, certificate: str | None = None) -> None:
        super().__init__(why)
        self.certificate = certificate


class BrokenError(Exception):
    """The connection ended, or spoke no HTTP, after a request had gone out: nobody knows what the server did with it."""


@dataclass(frozen=True)
class Response:
    """``headers`` by their names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connections:
    """As many connections as requests are in flight, ``most`` of them, for as long as the ``async with`` lasts."""

    def __init__(self, url: str, headers: dict[str, str], most: int = 1) -> None:
        allow_open_files(most + _OTHER_FILES)
        self._url, self._proxy, self._headers = url, proxy_for(url), headers
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Connections":
        connector = aiohttp.TCPConnector(limit=0, ssl=_trusted(self._url), keepalive_timeout=_IDLE_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=aiohttp.ClientTimeout(),
                                              cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._session
        await self._session.close()

    async def post(self, route: str, body: bytes) -> Response:
        """
        Raises:
            UnreachedError, BrokenError: see there.
        """
        assert self._session
        try:
            async with self._session.post(f"{self._url}/{route}", data=body, proxy=self._proxy,
                                          allow_redirects=False) as answer:  # a redirect would take the key along
                return Response(answer.status, {name.lower(): value for name, value in answer.headers.items()},
                                await answer.read())
        except aiohttp.ClientConnectorCertificateError as error:
            found = error.certificate_error
            raise UnreachedError(str(error), getattr(found, "verify_message", str(found))) from error
        except aiohttp.ClientConnectorError as error:
            raise UnreachedError(str(error)) from error
        except aiohttp.ClientHttpProxyError as error:
            raise UnreachedError(f"the proxy answers HTTP {error.status}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenError(str(error) or type(error).__name__) from error


def _trusted(url: str) -> ssl.SSLContext | bool:
    """The certificates that downloads trust, of https; reading them takes 85 ms of CPU."""
    if not url.startswith("https:"):
        return True
    import httpx2

    return httpx2.create_ssl_context()


def allow_open_files(count: int) -> None:
    """Raise what this process may have open to so many files, as far as the system lets it: each connection is one, and 1,024 are
    usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL (``https_proxy``, ``http_proxy``, ``all_proxy``, ``no_proxy``).

    Raises:
        UserError: it is of a kind that is not spoken here.
    """
    parts, found = urlsplit(url), getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    way = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if way.scheme not in ("http", "https") or not way.hostname:
        raise UserError(f"{parts.hostname}: the environment names a proxy {way.scheme}://{way.hostname or ''} for it, and only "
                        "http and https proxies are spoken; set https_proxy or http_proxy to one, or name the host in no_proxy")
    return way.geturl()
