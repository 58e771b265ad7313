"""Why a translation is sent back."""

from typing import NamedTuple


class Reason(NamedTuple):
    """A fault: the ``check`` that found it (a fixed word that is counted), the ``field`` it is in, and what was seen."""

    check: str
    field: str
    detail: str
