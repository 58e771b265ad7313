"""The ``quantize`` stage: each method's own module does the work."""

from importlib import import_module

from biomistral.artifact import Workspace
from biomistral.quantization.settings import MAKERS


def quantize(work: Workspace) -> None:
    """Write the quantised model with what the quantisation cost.

    Raises:
        UserError: see the method's own function.
    """
    module, _, function = MAKERS[work.settings.method].partition(":")
    getattr(import_module(module), function)(work)
