"""The processes that torchrun started: the first one makes an artifact, the others help it where they are called."""

import json
import os
import time
from functools import lru_cache
from typing import Any

from biomistral.errors import UserError

_POLL_SECONDS, _GRACE_SECONDS = 0.05, 5.0


class Dismissed(Exception):  # noqa: N818  (no error: a helper's part is done)
    """Raised in a helping process whose part is done: the first process alone writes what came of it."""


def world() -> int:
    """How many processes work together: 1 unless torchrun (or whoever sets its variables) started more."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else 1


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def leads() -> bool:
    """Whether this is the first process: the one that writes, logs and prints."""
    return rank() == 0


@lru_cache(maxsize=1)
def store() -> Any:
    """The key-value store that all processes share; torchrun holds it, so it outlives each of them.

    Raises:
        UserError: torchrun chose its port itself (``--master-port 0``) and told the processes 0: they would try it for ever.
    """
    if not _port_is_known():
        raise UserError("torchrun was started with --master-port 0, and does not tell its processes which port it then took; "
                        "start it with --standalone, or name a free port")
    from torch.distributed.rendezvous import rendezvous

    return next(iter(rendezvous("env://")))[0]


def says_it() -> bool:
    """Whether this process is the first to report a failure: all may meet the same one, and one line is enough."""
    if world() == 1 or not _port_is_known():
        return leads()
    return bool(store().add("said", 1) == 1)


def _port_is_known() -> bool:
    return os.environ.get("MASTER_PORT") != "0"


class Call:
    """What the first process tells the others about one artifact: ``help`` or not, then ``done`` or ``failed``.

    The others ask again and again rather than block in the store, so that a signal reaches them; a stage that only the
    first process works on may take hours.
    """

    _count = 0

    def __init__(self) -> None:
        Call._count += 1
        self._name, self._said = f"artifact-{Call._count}", False

    def help(self) -> None:
        """Called by the first process: the others are to run the stage's function with it."""
        self._tell("begin", "help")

    def end(self, word: str) -> None:
        """Called by the first process when the artifact stands (``done``), or never will (``failed``)."""
        if not self._said:
            self._tell("begin", word)
        self._tell("end", word)

    def _tell(self, moment: str, word: str) -> None:
        if world() > 1:
            store().set(f"{self._name}/{moment}", word)
        self._said = True

    def let_first_end(self) -> None:
        """Give the first process a moment to refuse what this one refused: torchrun kills all as soon as one has failed, and
        the first would leave its folder behind."""
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline and not store().check([f"{self._name}/end"]):
            time.sleep(_POLL_SECONDS)

    def heard(self, moment: str) -> str:
        """Wait for what the first process says. It has said itself what failed: the others then end without a word."""
        while not store().check([f"{self._name}/{moment}"]):
            time.sleep(_POLL_SECONDS)
        word = str(store().get(f"{self._name}/{moment}").decode())
        if word == "failed":
            raise SystemExit(2)
        return word


class Exchange:
    """Plain data that the processes pass to one another, by name; a name is used once. All make as many of these, in the same
    order."""

    _count = 0

    def __init__(self) -> None:
        Exchange._count += 1
        self._name = f"exchange-{Exchange._count}"

    def send(self, name: str, value: Any) -> None:
        store().set(f"{self._name}/{name}", json.dumps(value))

    def take(self, name: str, last: bool = True) -> Any:
        """Wait for what another process sends; ``last``: nobody else will ask for it."""
        key = f"{self._name}/{name}"
        while not store().check([key]):
            time.sleep(_POLL_SECONDS / 10)
        value = json.loads(store().get(key))
        if last:
            store().delete_key(key)
        return value
