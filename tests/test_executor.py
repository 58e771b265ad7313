"""One function over many batches: the same results in the same order from this process, a pool and Ray."""

import importlib.util
import operator
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from biomistral.errors import UserError
from biomistral.executor import executor
from biomistral.recipe import Machine


def work(shared: int, task: int) -> tuple[int, int]:
    time.sleep(0.02 * (task % 3))  # later tasks end before earlier ones
    return shared * task, task


def die(shared: int, task: int) -> int:
    if task == 3:
        os._exit(9)
    return task


def fail(shared: int, task: int) -> int:
    raise UserError(f"task {task} is wrong")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    with executor(work, 7, Machine(workers=workers)) as apply:
        assert list(apply(range(20))) == [(7 * task, task) for task in range(20)]
        assert list(apply([])) == []


def test_no_more_is_read_than_needed() -> None:
    taken = []

    def tasks() -> "object":
        for task in range(100):
            taken.append(task)
            yield task

    with executor(work, 1, Machine(workers=2)) as apply:
        results = apply(tasks())  # type: ignore[arg-type]
        assert next(results) == (0, 0)
        assert len(taken) <= 6


def test_a_killed_worker_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match="a worker process was killed"), executor(die, 0, Machine(workers=2)) as apply:
        list(apply(range(10)))


def test_a_script_without_a_main_guard_ends(tmp_path: Path) -> None:
    """Its workers run the script anew and die before they have read what is shared: more than a pipe holds."""
    script = tmp_path / "script.py"
    script.write_text(f"from {__name__.rpartition('.')[2]} import work, executor, Machine\n"
                      "with executor(work, bytes(1 << 20), Machine(workers=2)) as apply:\n    list(apply(range(9)))\n")
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, check=False,
                           env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)})
    assert found.returncode == 1
    assert "needs if __name__ == '__main__'" in found.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_a_task_reach_the_caller(workers: int) -> None:
    with pytest.raises(UserError, match="task 0 is wrong"), executor(fail, 0, Machine(workers=workers)) as apply:
        list(apply(range(3)))


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_extra_is_named() -> None:
    with pytest.raises(UserError, match="extra 'ray'"), executor(work, 1, Machine(executor="ray")):
        pass


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_ray_gives_the_same() -> None:
    with executor(operator.mul, 7, Machine(workers=2, executor="ray")) as apply:  # a function its workers can import
        assert list(apply(range(10))) == [7 * task for task in range(10)]
        with pytest.raises(ZeroDivisionError), executor(operator.truediv, 7, Machine(executor="ray")) as other:
            list(other([1, 0]))
