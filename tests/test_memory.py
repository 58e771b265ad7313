"""Imports that last: garbage is collected again afterwards, and PyTorch's objects are set aside once."""

import gc
import subprocess
import sys

import pytest

from biomistral.memory import lasting_imports

FIRST = """
import gc, sys
from biomistral.memory import lasting_imports
with lasting_imports():
    import json.tool
assert gc.get_freeze_count() == 0, "frozen without PyTorch"
with lasting_imports():
    assert not gc.isenabled()
    import torch
first = gc.get_freeze_count()
made = [[] for _ in range(1000)]
with lasting_imports():
    import torch.optim
print(first, gc.get_freeze_count() - first, gc.isenabled())
"""


def test_the_first_import_of_pytorch_is_set_aside_and_no_later_one() -> None:
    printed = subprocess.run([sys.executable, "-c", FIRST], check=True, capture_output=True, text=True).stdout
    first, later, collecting = printed.split()
    assert int(first) > 100_000
    assert int(later) <= 0  # some may have died since, none was added
    assert collecting == "True"


def test_garbage_is_collected_again_even_after_a_failed_import() -> None:
    with pytest.raises(ModuleNotFoundError), lasting_imports():
        import no_such_module_here  # noqa: F401
    assert gc.isenabled()


def test_who_had_switched_collection_off_finds_it_so() -> None:
    gc.disable()
    try:
        with lasting_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
