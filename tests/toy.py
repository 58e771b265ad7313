"""A stage small enough to see through: it writes numbers, one file at a time, and can be told to fail or to wait."""

import os
import time
from typing import ClassVar

from pydantic import Field

from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.recipe import Input, StageSettings


class ToySettings(StageSettings):
    """Add up numbers, slowly."""

    kind: ClassVar[str] = "toy"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "toy:make"

    source: Input | None = Field(None, description="a file with a number, or another toy", json_schema_extra={"argument": True})
    more: list[Input] = Field(default_factory=list, description="others")
    amount: int = Field(1, ge=0, description="how much")
    fail: str = Field("", description="how to fail")


def make(work: Workspace) -> None:
    """Write ``sum.txt``; parts already there are not made again."""
    settings = work.settings
    total = settings.amount
    for name in [item for item in (settings.source, *settings.more) if item]:
        place = work.locate(name)
        total += int((place / "sum.txt" if place.is_dir() else place).read_text())
    if settings.fail == "refuse":
        raise UserError("toy: refused")
    part = work.path / "part.txt"
    if part.exists():
        work.facts["resumed"] = True
    else:
        part.write_text("half")
    if settings.fail == "full":
        raise OSError(28, "No space left on device")
    if settings.fail == "interrupt" and not work.facts:
        raise KeyboardInterrupt
    while settings.fail == "hang" and not os.environ.get("TOY_GO"):
        time.sleep(0.01)
    (work.path / "sum.txt").write_text(str(total))
    work.counts["sum"] = total
    work.licences["CC0-1.0"] = 1
