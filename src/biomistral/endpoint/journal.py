"""What a server has answered, a line an answer, written as it comes: what was cut off goes on there and pays nothing twice."""

import json
from pathlib import Path
from typing import Any, TextIO

from biomistral.endpoint.account import Account
from biomistral.endpoint.client import Reply


class Journal:
    """Readings by the key of their request; ``account`` is told what those of an earlier run cost."""

    def __init__(self, path: Path, account: Account) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self._path = path
        self._file: TextIO | None = None  # made with the first answer: where there is none, nothing is left behind
        if path.is_file():
            self._read(path)
        for entry in self.entries.values():
            account.count(*entry["tokens"])

    def _read(self, path: Path) -> None:
        """Take up whole lines; the one that a kill cut is removed."""
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        with path.open("r+b") as file:
            file.truncate(len(whole))
        for line in whole.decode("utf-8").splitlines():
            entry = json.loads(line)
            self.entries[entry.pop("key")] = entry

    def write(self, key: str, reply: Reply) -> None:
        entry = {"value": reply.value, "tokens": [reply.prompt_tokens, reply.completion_tokens], "counted": reply.counted,
                 "seconds": reply.seconds}
        self.entries[key] = entry
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps({"key": key, **entry}) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
