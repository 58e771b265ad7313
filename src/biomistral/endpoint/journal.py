"""What a server was sent and what it answered, a line each, written as it comes: what was cut off goes on there and pays for
nothing twice."""

import json
from pathlib import Path
from typing import Any, TextIO

from biomistral.endpoint.account import Account
from biomistral.endpoint.client import Reply

Tokens = tuple[int, int]


class Journal:
    """Readings by the key of their request. ``account`` is told what those of an earlier run cost, and what its requests cost at
    most whose answers were lost on their way or had not come when it was cut off."""

    def __init__(self, path: Path, account: Account) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self._path, self._account = path, account
        self._file: TextIO | None = None
        self._sent: dict[str, list[Tokens]] = {}
        if path.is_file():
            self._read(path)
        for entry in self.entries.values():
            account.count(*entry["tokens"])
        self.open = sum(map(len, self._sent.values()))
        for key, times in self._sent.items():
            for tokens in times:
                account.lose(key, *tokens)
        account.note = self._note

    def _read(self, path: Path) -> None:
        """Take up whole lines; the one that a kill cut is removed."""
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        with path.open("r+b") as file:
            file.truncate(len(whole))
        for line in whole.decode("utf-8").splitlines():
            self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        key, word = entry.pop("key"), entry.pop("word", "answered")
        if word == "sent":
            self._sent.setdefault(key, []).append(tuple(entry["tokens"]))
            return
        if self._sent.get(key):
            tokens = self._sent[key].pop()
            if word == "lost":
                self._account.lose(key, *tokens)
        if word == "answered":
            self.entries[key] = entry

    def write(self, key: str, reply: Reply) -> None:
        entry = {"value": reply.value, "tokens": [reply.prompt_tokens, reply.completion_tokens], "counted": reply.counted,
                 "seconds": reply.seconds}
        self.entries[key] = entry
        self._append({"key": key, **entry})

    def _note(self, word: str, key: str, tokens: Tokens) -> None:
        self._append({"key": key, "word": word, "tokens": tokens})

    def _append(self, line: dict[str, Any]) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Where nothing was answered and nothing may be charged, no file is left behind."""
        if self._file is None:
            return
        self._file.close()
        if not self.entries and not self._account.unanswered:
            self._path.unlink()
