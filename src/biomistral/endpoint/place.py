"""Where a server is and what opens it: its URL, and a key that comes from the environment alone and is never shown."""

import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from biomistral.errors import UserError

_LONGEST_WORDS = 300


@dataclass(frozen=True)
class Place:
    """The URL that routes such as ``/completions`` are put behind, and the key ("": none is sent)."""

    url: str
    key: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def without_key(self, text: str) -> str:
        """Words of the server in one line of at most 300 characters, and without the key, should it repeat that."""
        text = re.sub(r"\s+", " ", text).strip()
        return (text.replace(self.key, "***") if self.key else text)[:_LONGEST_WORDS]


def normal_url(url: str) -> str:
    """A server's URL without a slash at its end; ``/v1`` is put behind one that names no path.

    Raises:
        UserError: it is no http URL, or holds a password or a query, which would stand in records.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--url {url}: not the URL of a server, such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"--url {parts.scheme}://{parts.hostname}...: holds a user name, a password or a query, which would "
                        "stand in records; give the URL alone and the key in the environment (--key-env)")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def find(url: str, key_env: str) -> Place:
    """The place of a URL, with the key that an environment variable holds, if any.

    Raises:
        UserError: see `normal_url`; the variable holds something that cannot be sent.
    """
    key = os.environ.get(key_env, "").strip() if key_env else ""
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{key_env}: holds characters that no key has; set it to the server's key alone")
    return Place(normal_url(url), key)


def words_of(data: Any) -> str:
    """What a server says is wrong, in any of the usual shapes."""
    for name in ("error", "message", "detail", "type"):
        if isinstance(data, dict) and data.get(name):
            return words_of(data[name])
    return str(data)
