"""Apertium, a program of rules and dictionaries: offline, small, and the same answer every time."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from biomistral.errors import UserError
from biomistral.languages import known
from biomistral.translation.engine import TextEngine
from biomistral.translation.engines.build import Means
from biomistral.translation.settings import Translator

_GLUED = re.compile(r"(?<=[^\W\d_]{2})de(\d+) ?(?=[^\W\d_])")
"""Into Spanish it makes "mujerde71años" of "71-year-old woman"."""

_AT_ONCE = 200
"""Sentences a process: it takes 0.1 s to start and 3 ms for each."""


def make(translator: Translator, means: Means) -> "Apertium":
    return Apertium(means.work.machine.workers or os.cpu_count() or 1)


class Apertium(TextEngine):
    """The program with its language pairs, as Debian has them (``apt install apertium-eng-spa``). Words that it does not know
    stay as they are, without a mark; the checks see what was not translated."""

    def __init__(self, workers: int) -> None:
        """
        Raises:
            UserError: it is not installed.
        """
        if shutil.which("apertium") is None:
            raise UserError("engine apertium: the program is not installed; apt install apertium and a pair of languages, e.g. "
                            "apertium-eng-spa")
        self._workers = workers
        self._pairs = set(_said("-l").split())
        self.identity = {"engine": "apertium", "version": _said("-V").splitlines()[0].strip(), "model": _packages(), "mended": 1}

    def can(self, source: str, target: str) -> bool:
        return self._pair(source, target) in self._pairs

    @staticmethod
    def _pair(source: str, target: str) -> str:
        return f"{known()[source].three}-{known()[target].three}"

    def translations(self, texts: Sequence[str], source: str, target: str) -> Iterable[str]:
        batches = [texts[start:start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for found in pool.map(partial(_batch, self._pair(source, target)), batches):
                    yield from found
            finally:
                pool.shutdown(cancel_futures=True)


def _batch(pair: str, texts: Sequence[str]) -> Iterator[str]:
    """A line a text, with a semicolon on a line between them, and the same back.

    Without that its rules move words over the ends of lines: of the options "Appendix, Gallbladder, Spleen" it made "spleen, of,
    gall bladder of the appendix". A full stop at a line's end is lost, and put there again.

    Raises:
        UserError: the program fails, or gives another number of lines.
    """
    asked = "\n;\n".join(" ".join(text.split()) for text in texts) + "\n"
    command = ["apertium", "-u", "-n", "-f", "line", pair]
    done = subprocess.run(command, input=asked.encode("utf-8", "replace"), capture_output=True)
    lines = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if done.returncode or len(lines) != 2 * len(texts) - 1 or {*lines[1::2]} - {";"}:
        raise UserError(f"engine apertium, {pair}: {len(lines)} lines came back for {len(texts)} (exit code {done.returncode}): "
                        f"{' '.join(done.stderr.decode('utf-8', 'replace').split())[:200]}")
    for text, line in zip(texts, lines[::2], strict=True):
        line = _GLUED.sub(r" de \1 ", line) if pair.endswith("-spa") else line
        yield line + "." if text.endswith(".") and not line.endswith(".") else line


def _said(option: str) -> str:
    return subprocess.run(["apertium", option], capture_output=True, text=True).stdout


def _packages() -> str:
    """The versions of the language pairs, where the system's package manager tells them."""
    if shutil.which("dpkg-query") is None:
        return "unknown"
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Package}=${Version}\\n", "apertium-*-*"], capture_output=True, text=True)
    return " ".join(line for line in done.stdout.split() if not line.endswith("=")) or "unknown"
