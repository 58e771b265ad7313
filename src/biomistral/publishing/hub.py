"""The hub's calls, each tried again where that may help; the token comes from the environment alone and stands in no message."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from biomistral.assets import offline
from biomistral.errors import UserError

_TRIES = 5
_LONGEST_WAIT = 60.0
_OLDEST = "2.4"
_AGAIN = (429, 500, 502, 503, 504)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Hub:
    """A hub that we may write to."""

    api: Any
    token: str = field(repr=False)

    def call(self, what: str, function: Callable[[], Result]) -> Result:
        """What the call returns; lost connections and servers in trouble are asked again, after 1, 2, 4 and 8 seconds.

        Raises:
            UserError: the hub refused it, or did not answer in all these tries.
        """
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        for number in range(_TRIES):
            try:
                return function()
            except (HfHubHTTPError, httpx2.TransportError, OSError, RuntimeError, ValueError) as error:
                cause = _cause(error)  # xet's package raises Python's own ConnectionError where others raise httpx2's
                passes = (HfHubHTTPError, httpx2.TransportError, ConnectionError, TimeoutError)
                if not isinstance(cause, passes) and not _is_no_json(cause):
                    raise UserError(f"{what}: {self._words(cause)}") from None
                status = getattr(getattr(cause, "response", None), "status_code", None)
                if (status is not None and status not in _AGAIN) or number == _TRIES - 1:
                    raise UserError(f"{what}: {self._refusal(status, cause)}") from None
                time.sleep(_wait(cause, number))
        raise AssertionError("the last try returns or raises")

    def _refusal(self, status: int | None, error: BaseException) -> str:
        """One line: what the hub said, and what to do about it."""
        advice = {401: "it does not know HF_TOKEN; make a new token there",
                  403: "HF_TOKEN may not write there; make one that may, or choose another owner",
                  404: "there is no such place, or HF_TOKEN may not see it"}
        if status in advice:
            return f"the hub refused it ({status}): {advice[status]}"
        if status is None:
            return f"the hub cannot be reached ({self._words(error)}); run the same command again, it goes on where it was"
        return f"the hub answered {status} ({self._words(error)})" + (
            "; run the same command again later, it goes on where it was" if status in _AGAIN else "")

    def _words(self, error: BaseException) -> str:
        """An error in one line of at most 300 characters, without the token, should the server repeat that."""
        return (" ".join(str(error).split()) or type(error).__name__).replace(self.token, "***")[:300]


def find_hub() -> Hub:
    """The hub of ``HF_ENDPOINT`` (else huggingface.co), with the token of ``HF_TOKEN``.

    Raises:
        UserError: every network is forbidden, there is no token, or the token would be sent in clear to another machine.
    """
    if offline():
        raise UserError("HF_HUB_OFFLINE is set, which forbids every upload; unset it to publish")
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError("HF_TOKEN is not set: put a token that may write into the environment; it is taken from nowhere else")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError("HF_TOKEN holds characters that no token has; set it to the token alone")
    _check_library()
    from huggingface_hub import HfApi, constants

    place = urlsplit(constants.ENDPOINT)
    if place.scheme != "https" and place.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise UserError(f"HF_ENDPOINT {constants.ENDPOINT}: is not https, so that HF_TOKEN could be read on its way")
    return Hub(HfApi(endpoint=constants.ENDPOINT, token=token, library_name="biomistral"), token)


def _check_library() -> None:
    """The errors that `Hub.call` knows are those of the library from 2.4 on; transformers is content with an older one."""
    from importlib.metadata import version

    from packaging.version import Version

    if Version(found := version("huggingface_hub")) < Version(_OLDEST):
        raise UserError(f"publish needs huggingface_hub {_OLDEST} or newer, here is {found}; bring it with: "
                        "pip install 'biomistral[hub]'")


def _cause(error: BaseException) -> BaseException:
    """The library wraps what went wrong in an upload's thread into a RuntimeError."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_no_json(error: BaseException) -> bool:
    """An answer that is no JSON where some was due: a server in trouble sends a page."""
    import json

    return isinstance(error, json.JSONDecodeError)


def _wait(error: BaseException, number: int) -> float:
    """Seconds: as long as the server says, else doubling from one."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    said = headers.get("retry-after", "")
    return min(float(said), _LONGEST_WAIT) if said.isdigit() else 2.0 ** number
