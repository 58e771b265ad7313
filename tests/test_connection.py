"""Connections to a server, against small servers in the same loop: kept, closed, broken, by TLS, through a proxy."""

import asyncio
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomistral.endpoint.client import Request
from biomistral.endpoint.connection import BrokenError, Connections, UnreachedError, proxy_for
from biomistral.endpoint.line import Line, Try
from biomistral.errors import UserError

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Seen: yes\r\n\r\nok"
REPLIES = {
    "length": PLAIN,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;more\r\nk\r\n0\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
    "last": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "until it closes": b"HTTP/1.0 200 OK\r\n\r\nok",
}
CLOSES = ("last", "until it closes")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def head_and_body(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
    return head, await reader.readexactly(int(length[0].split(":")[1])) if length else b""


class Served:
    """What a server got: each request's head and body, and how many connections there were."""

    def __init__(self, reply, closes=False):
        self.reply, self.closes, self.requests, self.connections = reply, closes, [], 0

    async def __call__(self, reader, writer):
        self.connections += 1
        try:
            while True:
                self.requests.append(await head_and_body(reader))
                writer.write(self.reply)
                await writer.drain()
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(served, tls=None):
    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def to(url):
    return Connections(url, {"A": "b"})


@pytest.mark.parametrize("kind", list(REPLIES))
def test_answers_in_every_form_are_read_and_a_connection_is_kept_while_it_can_be(kind):
    async def talk():
        served = Served(REPLIES[kind], closes=kind in CLOSES)
        async with listening(served) as port, to(f"http://127.0.0.1:{port}/v1") as connection:
            for number in range(3):
                answer = await connection.post("x", f"é{number}".encode())
                assert (answer.status, answer.body) == (200, b"ok")
        assert [body.decode() for _, body in served.requests] == ["é0", "é1", "é2"]
        assert served.requests[0][0].startswith(f"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nA: b\r\n")
        assert served.connections == (3 if kind in CLOSES else 1)

    asyncio.run(talk())


def test_one_that_was_closed_while_nobody_asked_is_opened_anew():
    async def talk():
        served = Served(PLAIN, closes=True)  # though its answer says nothing of it
        async with listening(served) as port, to(f"http://127.0.0.1:{port}/v1") as connection:
            for _ in range(2):
                assert (await connection.post("x", b"1")).headers["x-seen"] == "yes"
                await asyncio.sleep(0.05)
        assert served.connections == 2

    asyncio.run(talk())


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200"])
def test_what_breaks_off_or_is_no_http_is_broken_and_the_next_request_has_a_new_connection(reply):
    async def talk():
        served = Served(reply, closes=True)
        async with listening(served) as port, to(f"http://127.0.0.1:{port}/v1") as connection:
            with pytest.raises(BrokenError):
                await connection.post("x", b"1")
            served.reply = PLAIN
            assert (await connection.post("x", b"1")).body == b"ok"

    asyncio.run(talk())


def test_nobody_there_and_a_time_limit():
    async def talk():
        async with listening(Served(b"")) as port, to(f"http://127.0.0.1:{port}/v1") as connection:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connection.post("x", b"1")
        async with to(f"http://127.0.0.1:{port}/v1") as connection:
            with pytest.raises(UnreachedError):
                await connection.post("x", b"1")

    asyncio.run(talk())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
            "subjectAltName=DNS:localhost", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except OSError:
        pytest.skip("openssl is not here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


def test_a_certificate_is_judged(certificate, monkeypatch):
    path, context = certificate

    async def talk():
        async with listening(Served(PLAIN), context) as port, to(f"https://localhost:{port}/v1") as connection:
            return (await connection.post("x", b"1")).body

    with pytest.raises(UnreachedError) as refused:
        asyncio.run(talk())
    assert "self-signed certificate" in refused.value.certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert asyncio.run(talk()) == b"ok"


def test_a_proxy_passes_requests_on(monkeypatch):
    async def talk():
        proxy = Served(PLAIN)
        async with listening(proxy) as port:
            monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{port}")
            monkeypatch.setenv("no_proxy", "inside.example")
            assert proxy_for("http://inside.example/v1") is None
            async with to("http://outside.example:8000/v1") as connection:
                assert (await connection.post("x", b"1")).body == b"ok"
        (head, _), = proxy.requests
        assert head.startswith("POST http://outside.example:8000/v1/x HTTP/1.1\r\nHost: outside.example:8000\r\n")
        assert "Proxy-Authorization: Basic bWU6cEBzcw==" in head

    asyncio.run(talk())


def test_tls_goes_through_a_proxy_by_a_tunnel(certificate, monkeypatch):
    path, context = certificate
    heads = []

    async def tunnel(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        port = int(heads[-1].split()[1].rpartition(":")[2])
        if "bWU6cEBzcw==" not in heads[-1]:
            writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        there, here = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Go on\r\n\r\n")
        await asyncio.gather(piped(reader, here), piped(there, writer))

    async def piped(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def talk(user):
        served = Served(PLAIN)
        async with listening(served, context) as port, listening(tunnel) as proxy:
            monkeypatch.setenv("https_proxy", f"http://{user}127.0.0.1:{proxy}")
            async with to(f"https://localhost:{port}/v1") as connection:
                for _ in range(2):
                    assert (await connection.post("x", b"1")).body == b"ok"
        assert (len(heads), served.connections, len(served.requests)) == (1, 1, 2)
        assert all("Proxy-Authorization" not in head for head, _ in served.requests)

    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    asyncio.run(talk("me:p%40ss@"))
    with pytest.raises(UnreachedError, match="HTTP 407"):
        asyncio.run(talk(""))


def test_a_proxy_of_another_kind_is_refused_in_a_line(monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://localhost:1080")
    with pytest.raises(UserError, match=r"api\.example: the environment names a proxy socks5://localhost for it, and only"):
        proxy_for("http://api.example/v1")


def requests(count):
    return [Request(str(number), "", {}, 1, 1, dict) for number in range(count)]


def test_a_wait_holds_nobodys_place_but_no_more_than_so_many_wait_beside():
    now = [0.0]
    line = Line(requests(6), 1, clock=lambda: now[0])
    first, _ = line.next()
    line.again(first, 5)
    second, wait = line.next()
    assert (second.request.key, wait) == ("1", 0)
    line.again(second, 2)
    held, wait = line.next()  # two wait beside: this one is waited for
    assert (held.request.key, held.failures, wait) == ("1", 1, 2)
    assert line.next()[0].request.key == "2"
    now[0] = 5.0
    again, wait = line.next()  # what is due goes before what is new
    assert (again.request.key, again.failures, wait) == ("0", 1, 0)


@given(st.integers(0, 30), st.integers(0, 5), st.integers(1, 8), st.lists(st.tuples(st.booleans(), st.floats(0, 9)), max_size=60))
def test_every_request_is_sent_until_it_is_answered_and_none_after(count, most, places, luck):
    now, answered = [0.0], []
    line = Line(requests(count), most, clock=lambda: now[0])
    flying: list[Try] = []
    while True:
        while len(flying) < places and (found := line.next()):
            now[0] += found[1]
            flying.append(found[0])
        if not flying:
            break
        task = flying.pop(0)
        fails, seconds = luck.pop() if luck else (False, 0.0)
        if fails:
            line.again(task, seconds)
        else:
            answered.append(task.request.key)
    assert sorted(answered, key=int) == [str(number) for number in range(count)]
