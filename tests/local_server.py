"""A server of this machine, for as long as a test lasts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

import pytest


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """Let it answer in a thread; no proxy stands before it, and offline mode is off."""
    with pytest.MonkeyPatch.context() as patch, server:
        patch.setenv("no_proxy", "127.0.0.1")
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
