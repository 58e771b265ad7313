"""Artifacts: finished if and only if the manifest is there, keyed by content, resumed after any interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from biomistral.artifact import is_artifact, open_artifact, partial_folder, produce, verify
from biomistral.errors import UserError
from biomistral.files import content_digest
from biomistral.recipe import Machine
from biomistral.run import execute
from toy import ToySettings


def test_an_artifact_is_made_once_and_then_found(tmp_path: Path) -> None:
    first = execute(ToySettings(amount=3), tmp_path / "a")
    stamp = (tmp_path / "a" / "manifest.json").stat().st_mtime_ns
    second = execute(ToySettings(amount=3), tmp_path / "a")
    assert first.key == second.key
    assert (tmp_path / "a" / "manifest.json").stat().st_mtime_ns == stamp
    assert (tmp_path / "a" / "sum.txt").read_text() == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_key_follows_what_inputs_hold_never_where_they_lie(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one.txt", tmp_path / "sub" / "two.txt", tmp_path / "other.txt"
    two.parent.mkdir()
    one.write_text("5")
    two.write_text("5")
    other.write_text("6")
    keys = [execute(ToySettings(source=str(path)), tmp_path / f"out{i}").key for i, path in enumerate((one, two, other))]
    assert keys[0] == keys[1] != keys[2]


def test_a_changed_input_file_gives_another_key(tmp_path: Path) -> None:
    source = tmp_path / "n.txt"
    source.write_text("5")
    before = execute(ToySettings(source=str(source)), tmp_path / "a").key
    source.write_text("7")
    with pytest.raises(UserError, match="holds another toy artifact"):
        execute(ToySettings(source=str(source)), tmp_path / "a")
    after = execute(ToySettings(source=str(source)), tmp_path / "a", Machine(overwrite=True))
    assert after.key != before
    assert (tmp_path / "a" / "sum.txt").read_text() == "8"


def test_large_files_are_hashed_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    big = tmp_path / "big.bin"
    big.write_bytes(b"\0" * (33 << 20))
    first = content_digest(big)
    assert content_digest(big) == first  # from the cache
    with big.open("r+b") as stream:
        stream.seek(1 << 20)
        stream.write(b"x")
    assert content_digest(big) != first


def test_the_manifest_names_inputs_by_content_and_carries_its_ancestors(tmp_path: Path) -> None:
    a = execute(ToySettings(amount=1), tmp_path / "a")
    b = execute(ToySettings(source=str(tmp_path / "a"), amount=2), tmp_path / "b")
    c = execute(ToySettings(source=str(tmp_path / "b"), more=[str(tmp_path / "a")]), tmp_path / "c")
    assert (tmp_path / "c" / "sum.txt").read_text() == "5"
    assert c.manifest["inputs"][0]["key"] == b.key
    assert c.manifest["inputs"][0]["content"] == b.manifest["content"]
    assert set(c.manifest["ancestors"]) == {a.key, b.key}
    assert c.manifest["ancestors"][a.key]["licences"] == {"CC0-1.0": 1}


def test_verify_finds_a_changed_and_a_missing_file(tmp_path: Path) -> None:
    artifact = execute(ToySettings(), tmp_path / "a")
    assert verify(artifact) == []
    (artifact.path / "sum.txt").write_text("99")
    (artifact.path / "part.txt").unlink()
    assert sorted(problem.rpartition("/")[2] for problem in verify(artifact)) == [
        "part.txt: missing", "sum.txt: differs from the hash in the manifest"]


def test_an_output_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    for machine in (Machine(), Machine(overwrite=True)):
        with pytest.raises(UserError, match="already exists and is not an artifact"):
            execute(ToySettings(), tmp_path / "mine", machine)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_a_refusal_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toy: refused"):
        execute(ToySettings(fail="refuse"), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_the_work_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left on this disk"):
        execute(ToySettings(fail="full"), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert [path.name for path in next(tmp_path.glob(".a.*.partial")).glob("*.txt")] == ["part.txt"]


def test_interrupted_work_is_resumed(tmp_path: Path) -> None:
    settings = ToySettings(fail="interrupt")
    with pytest.raises(KeyboardInterrupt):
        execute(settings, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    artifact = execute(settings, tmp_path / "a")
    assert artifact.manifest["facts"] == {"resumed": True}
    assert list(tmp_path.glob(".a*")) == []


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from toy import ToySettings
from biomistral.run import execute
execute(ToySettings(fail="hang"), Path({out!r}))
"""


def _hanging(out: Path) -> subprocess.Popen[bytes]:
    script = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out))
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while not list(out.parent.glob(".a.*.partial/part.txt")):
        assert child.poll() is None
        time.sleep(0.02)
    return child


def test_two_processes_never_make_the_same_artifact_and_a_kill_frees_it(tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    child = _hanging(tmp_path / "a")
    with pytest.raises(UserError, match="another process is making this artifact"):
        execute(ToySettings(fail="hang"), tmp_path / "a")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not is_artifact(tmp_path / "a")
    monkeypatch.setenv("TOY_GO", "1")
    assert execute(ToySettings(fail="hang"), tmp_path / "a").manifest["facts"] == {"resumed": True}


def test_what_a_kill_left_half_written_is_no_part_of_the_artifact(tmp_path: Path) -> None:
    whole = execute(ToySettings(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        execute(ToySettings(fail="interrupt"), tmp_path / "a")
    leftover = next(tmp_path.glob(".a.*.partial")) / ".manifest.json.123.tmp"
    leftover.write_text('{"schema":')
    artifact = execute(ToySettings(fail="interrupt"), tmp_path / "a")
    assert set(artifact.manifest["files"]) == set(whole.manifest["files"])
    assert not (artifact.path / leftover.name).exists()


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    artifact = execute(ToySettings(), tmp_path / "a")
    assert {path.stat().st_mode & 0o777 for path in artifact.path.iterdir()} == {artifact.path.stat().st_mode & 0o666}


def test_a_kill_between_manifest_and_rename_loses_nothing(tmp_path: Path) -> None:
    done = execute(ToySettings(), tmp_path / "a")
    done.path.rename(partial_folder(tmp_path / "a", done.key))
    again = execute(ToySettings(), tmp_path / "a")
    assert again.manifest == done.manifest


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"kind": "toy", "key": "x", "schema": 99}', "\ud800"])
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"manifest\.json") as caught:
        open_artifact(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    execute(ToySettings(), tmp_path / "a")
    with pytest.raises(UserError, match="holds an artifact of kind toy; one of kind corpus is needed here"):
        open_artifact(tmp_path / "a", "corpus")


def test_a_raised_stage_version_makes_old_work_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = execute(ToySettings(), tmp_path / "a").key
    monkeypatch.setattr(ToySettings, "version", 2)
    assert produce(ToySettings(), tmp_path / "b", {}).key != before


def test_times_and_machines_stay_out_of_what_is_compared(tmp_path: Path) -> None:
    first, second = (json.loads((execute(ToySettings(), tmp_path / name).path / "manifest.json").read_text()) for name in "ab")
    first.pop("made"), second.pop("made")
    assert first == second
