"""Translations that were made, by what was asked of whom: nothing is paid for twice, in this run or any other."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from biomistral.errors import UserError
from biomistral.recipe import canonical_hash
from biomistral.translation.engine import Answer, Engine, Piece
from biomistral.translation.reasons import Reason

_AT_ONCE = 500
_WAIT_SECONDS = 60.0
_TABLE = ("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, fields TEXT NOT NULL, faults TEXT NOT NULL, "
          "prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, run TEXT NOT NULL) WITHOUT ROWID")


def key_of(engine: Engine, piece: Piece) -> str:
    """The name of an answer: what was asked of whom, never where or when."""
    asked = [engine.identity, piece.source, piece.target, piece.fields, list(piece.fields), piece.wording, piece.faults]
    return canonical_hash(asked)[:40]


class Memory:
    """A SQLite file in write-ahead mode: any number of processes of one machine read and write it, and an answer is on the disk
    once `put` returns, whatever ends the process."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: the file cannot be used.
        """
        self.path = path
        with self._said():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute(_TABLE)

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"{self.path}: translations cannot be kept there ({error}); name a folder of this machine with "
                            "--cache") from error

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """What is known of these keys."""
        wanted, found = list(keys), {}
        with self._said():
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start:start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = self._base.execute("SELECT key, fields, faults, prompt_tokens, completion_tokens FROM answers "
                                          f"WHERE key IN ({marks})", some)
                for key, fields, faults, into, out in rows:
                    found[key] = Answer(json.loads(fields), tuple(Reason(*fault) for fault in json.loads(faults)), (into, out))
        return found

    def put(self, key: str, answer: Answer, run: str) -> None:
        """Keep an answer, and which run (the key of its artifact) it was made for."""
        with self._said():
            self._base.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                               (key, json.dumps(answer.fields), json.dumps(answer.faults),
                                *answer.tokens, run))

    def tokens(self, run: str) -> tuple[int, int]:
        """Tokens of prompts and answers that a run took, all its attempts to end together."""
        with self._said():
            found = self._base.execute("SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) "
                                       "FROM answers WHERE run = ?", (run,)).fetchone()
        return int(found[0]), int(found[1])

    def close(self) -> None:
        self._base.close()
