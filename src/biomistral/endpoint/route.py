"""By which way a server is reached: straight, or through the proxy that the environment names for it."""

import base64
import ssl
import urllib.request
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from biomistral.errors import UserError

_PORTS = {"http": 80, "https": 443}


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS.get(parts.scheme, 80)


@dataclass(frozen=True)
class Route:
    """A server's URL, and the proxy before it, if there is one; with each how its certificate is judged, of https."""

    url: SplitResult
    tls: ssl.SSLContext | None
    proxy: SplitResult | None = None
    proxy_tls: ssl.SSLContext | None = None

    @property
    def host(self) -> str:
        return self.url.hostname or ""

    @property
    def host_header(self) -> str:
        return self.url.netloc

    @property
    def peer(self) -> tuple[str, int]:
        """Who is connected to: host and port."""
        parts = self.proxy or self.url
        return parts.hostname or "", _port(parts)

    @property
    def first_tls(self) -> ssl.SSLContext | None:
        """TLS from the first byte on: with the server, or with the proxy."""
        return self.proxy_tls if self.proxy else self.tls

    @property
    def tunnel(self) -> str | None:
        """What the proxy is to be asked a tunnel to: an https server behind it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{_port(self.url)}" if self.proxy and self.tls else None

    def target(self, path: str) -> str:
        """What stands in the first line of a request: all of the URL for a proxy that passes it on."""
        return f"{self.url.scheme}://{self.url.netloc}{path}" if self.proxy and not self.tls else path

    def proxy_headers(self, tunnel: bool = False) -> list[tuple[str, str]]:
        """The proxy's own user and password; of https only the asking for the ``tunnel`` shows them."""
        if self.proxy is None or self.proxy.username is None or tunnel != bool(self.tunnel):
            return []
        pair = f"{unquote(self.proxy.username)}:{unquote(self.proxy.password or '')}"
        return [("Proxy-Authorization", "Basic " + base64.b64encode(pair.encode()).decode())]


def route_to(url: str) -> Route:
    """The way to a URL, by the usual variables (``https_proxy``, ``http_proxy``, ``all_proxy``, ``no_proxy``).

    Raises:
        UserError: the proxy is of a kind that is not spoken here.
    """
    parts, found = urlsplit(url), urllib.request.getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return Route(parts, _trusted(parts.scheme))
    way = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if way.scheme not in _PORTS or not way.hostname:
        raise UserError(f"{parts.hostname}: the environment names a proxy {way.scheme}://{way.hostname or ''} for it, and only "
                        "http and https proxies are spoken; set https_proxy or http_proxy to one, or name the host in no_proxy")
    return Route(parts, _trusted(parts.scheme), way, _trusted(way.scheme))


def _trusted(scheme: str) -> ssl.SSLContext | None:
    """The certificates that are trusted, of https: those that downloads trust (``SSL_CERT_FILE`` first). Read once for all
    connections: it takes 85 ms of CPU."""
    if scheme != "https":
        return None
    import httpx2

    return httpx2.create_ssl_context()
