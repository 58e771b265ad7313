"""The ``quantize`` stage: each method's own module does the work, and what it wrote is measured as any other's."""

from importlib import import_module

from biomistral.artifact import Workspace
from biomistral.quantization.measure.measure import measure, prepare
from biomistral.quantization.settings import MAKERS


def quantize(work: Workspace) -> None:
    """Write the quantised model with what the quantisation cost.

    Raises:
        UserError: see the method's own function, and `biomistral.quantization.measure.measure.prepare`.
    """
    work.settings.check()
    prepared = prepare(work)
    module, _, function = MAKERS[work.settings.method].partition(":")
    getattr(import_module(module), function)(work)
    measure(work, prepared)
