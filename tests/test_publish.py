"""Publishing: against a hub in a process of its own, by the command as it is typed; and everything that forbids it beforehand."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _runtime
from hypothesis import given
from hypothesis import strategies as st

from biomistral.artifact import open_artifact, verify
from biomistral.cards.card import Wanted, write_card
from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.publishing.hub import find_hub
from biomistral.publishing.manifest import public
from biomistral.publishing.plan import make_plan
from biomistral.publishing.publish import check, render
from biomistral.publishing.secrets import secrets_in
from biomistral.reporting.lineage import lineage
from tiny_papers import make_papers
from tiny_results import rewrite

TOKEN = "hf_" + "testtokenoftheserver" * 2
HERE = Path(__file__).parent


@dataclass
class Hub:
    url: str

    def state(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/state", timeout=30) as answer:
            return dict(json.load(answer))

    def files(self, repo: str) -> dict[str, bytes]:
        found = self.state()["repos"][repo]["files"]
        return {name: base64.b64decode(data) for name, data in found.items() if name != ".gitattributes"}

    def order(self, **faults: list[str]) -> None:
        urllib.request.urlopen(f"{self.url}/faults", json.dumps(faults).encode(), timeout=30).close()


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    """A hub; as its parameter (indirect) the size of parts in which it takes large files."""
    words = [sys.executable, str(HERE / "hub_server.py"), TOKEN, str(getattr(request, "param", 0))]
    with serving(words) as there:
        yield there


@contextmanager
def serving(words: list[str]) -> Iterator[Hub]:
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Hub(f"http://127.0.0.1:{process.stdout.readline().strip()}")
    finally:
        process.kill()
        process.wait()


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Publish = Callable[..., Done]


@pytest.fixture
def publish(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Publish:
    """The command in this process (a new one takes seconds to import everything), with the hub where the library looks for it."""

    def run(*arguments: str | Path, token: str = TOKEN, endpoint: str = "", xet: bool = False, **more: str) -> Done:
        for name, value in {"HF_TOKEN": token, "HF_HUB_OFFLINE": "0", **more}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint or hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(sys, "argv", ["biomistral", "publish", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert TOKEN not in shown.out + shown.err
        return Done(int(ended.value.code or 0), shown.out, shown.err)

    return run


@pytest.fixture
def papers(tmp_path: Path) -> dict[str, Path]:
    found = make_papers(tmp_path)
    for name in ("tuned", "corpus", "suite"):
        write_card(found[name], None, Wanted(licence="cc-by-4.0" if name == "tuned" else ""))
    write_card(found["tuned"] / "adapter", None, Wanted(licence="cc-by-4.0"))
    return found


# ---- against the hub --------------------------------------------------------------------------------------------------


def test_dry_first_then_whole_then_nothing_to_do(papers: dict[str, Path], hub: Hub, publish: Publish) -> None:
    dry = publish(papers["tuned"], "--to", "someone/tuned")
    assert dry.returncode == 0, dry.stderr
    assert "model repository someone/tuned, private" in dry.stdout
    assert "Nothing was sent" in dry.stdout
    assert open_artifact(papers["tuned"]).manifest["files"]["model.safetensors"]["blake3"][:12] in dry.stdout
    assert hub.state()["calls"] == []
    done = publish(papers["tuned"], "--to", "someone/tuned", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["user"], told["private"], told["already_there"]) == ("someone", True, [])
    there, artifact = hub.files("models/someone/tuned"), open_artifact(papers["tuned"])
    key = open_artifact(papers["corpus"]).key[:16]
    assert set(there) == {*artifact.manifest["files"], "README.md", "manifest.json", f"attribution/{key}.tsv"}
    for name in artifact.manifest["files"]:
        assert there[name] == (papers["tuned"] / name).read_bytes()
    assert str(papers["base"].parent).encode() not in b"".join(there.values())
    assert TOKEN.encode() not in b"".join(there.values())
    twice = publish(papers["tuned"], "--to", "someone/tuned", "--yes", "--json")
    assert twice.returncode == 0, twice.stderr
    again = json.loads(twice.stdout)
    assert again["sent"] == []
    assert len(hub.state()["commits"]) == 1
    assert len(hub.state()["puts"]) == len(set(hub.state()["puts"]))


def test_what_was_published_is_an_artifact_like_any(papers: dict[str, Path], hub: Hub, publish: Publish, tmp_path: Path) -> None:
    assert publish(papers["corpus"], "--to", "someone/texts", "--yes", "--public").returncode == 0
    assert hub.state()["repos"]["datasets/someone/texts"]["private"] is False
    for name, data in hub.files("datasets/someone/texts").items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(data)
    got = open_artifact(tmp_path / "got", "corpus")
    assert verify(got) == []
    original = open_artifact(papers["corpus"])
    assert (got.key, got.manifest["content"]) == (original.key, original.manifest["content"])


def test_an_adapter_alone(papers: dict[str, Path], hub: Hub, publish: Publish) -> None:
    assert publish(papers["tuned"] / "adapter", "--to", "someone/lora", "--yes").returncode == 0
    there = hub.files("models/someone/lora")
    assert {name for name in there if not name.startswith("attribution/")} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "base.json"}
    assert b"library_name: peft" in there["README.md"]


def test_faults_that_pass(papers: dict[str, Path], hub: Hub, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    hub.order(whoami=["500"], create=["page"], put=["drop"], commit=["500", "lost"], tree=["drop"])
    done = publish(papers["tuned"], "--to", "someone/tuned", "--yes")
    assert done.returncode == 0, done.stderr
    assert hub.files("models/someone/tuned")["model.safetensors"] == (papers["tuned"] / "model.safetensors").read_bytes()
    assert sorted(waits)[-1] == 2  # the second wait of a call is twice the first


def test_a_hub_that_stays_in_trouble(papers: dict[str, Path], hub: Hub, publish: Publish,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    hub.order(whoami=["500"] * 9)
    done = publish(papers["tuned"], "--to", "someone/tuned", "--yes")
    assert done.returncode == 2
    assert "the hub answered 500" in done.stderr
    assert "it goes on where it was" in done.stderr
    assert waits == [1, 2, 4, 8]


def start_publishing(folder: Path, hub: Hub) -> subprocess.Popen[bytes]:
    """In a process of its own, which can be killed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    line = [sys.executable, "-m", "biomistral.cli", "publish", str(folder), "--to", "someone/tuned", "--yes"]
    return subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)


def kill_when(process: subprocess.Popen[bytes], hub: Hub, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What the hub held when it was killed."""
    deadline = time.monotonic() + 100
    while not reached(hub.state()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return hub.state()


def test_killed_in_the_middle_it_goes_on(papers: dict[str, Path], hub: Hub, publish: Publish) -> None:
    hub.order(commit=["stall"])
    before = kill_when(start_publishing(papers["tuned"], hub), hub, lambda state: "commit" in state["calls"])
    assert before["puts"], "the weights had arrived"
    assert hub.files("models/someone/tuned") == {}, "nothing is seen before everything is there"
    assert publish(papers["tuned"], "--to", "someone/tuned", "--yes").returncode == 0
    assert hub.state()["puts"] == before["puts"], "what had arrived was not sent again"
    assert "manifest.json" in hub.files("models/someone/tuned")


# ---- large files: in parts, and by xet -------------------------------------------------------------------------------

PART = 4_096
"""Of the hub's 5 GB; the weights of these tests have 10,240 bytes."""


def parts_of(weights: Path, state: dict[str, Any]) -> list[list[int]]:
    """For each time that a file's upload was begun, the bytes of each part that arrived."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return [parts for upload, parts in state["parts"].items() if upload.startswith(digest)]


@pytest.mark.parametrize("hub", [PART], indirect=True)
def test_in_parts_with_faults_that_pass(papers: dict[str, Path], hub: Hub, publish: Publish,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.order(part=["500", "ok", "drop", "ok", "lost"], complete=["500"])
    done = publish(papers["tuned"], "--to", "someone/tuned", "--yes")
    assert done.returncode == 0, done.stderr
    weights = papers["tuned"] / "model.safetensors"
    assert hub.files("models/someone/tuned")["model.safetensors"] == weights.read_bytes()
    assert parts_of(weights, hub.state()) == [[PART, PART, 10_240 - 2 * PART]]  # one upload: only lost parts were sent again


@pytest.mark.parametrize("hub", [PART], indirect=True)
def test_killed_between_two_parts_it_goes_on(papers: dict[str, Path], hub: Hub, publish: Publish) -> None:
    """Storage behind a hub forgets an upload that nobody ended: that file begins anew."""
    weights = papers["tuned"] / "model.safetensors"
    hub.order(part=["ok", "ok", "stall"])
    before = kill_when(start_publishing(papers["tuned"], hub), hub, lambda state: state["calls"].count("part") == 3)
    assert parts_of(weights, before) == [[PART, PART]]
    assert hub.files("models/someone/tuned") == {}
    done = publish(papers["tuned"], "--to", "someone/tuned", "--yes")
    assert done.returncode == 0, done.stderr
    after = hub.state()
    assert parts_of(weights, after) == [[PART, PART], [PART, PART, 10_240 - 2 * PART]]
    assert len(after["commits"]) == 1
    assert hub.files("models/someone/tuned")["model.safetensors"] == weights.read_bytes()


@pytest.mark.parametrize("hub", [PART], indirect=True)
def test_parts_that_do_not_fit_are_refused(papers: dict[str, Path], hub: Hub, publish: Publish) -> None:
    hub.order(complete=["echo"])
    done = publish(papers["tuned"], "--to", "someone/tuned", "--yes")
    assert done.returncode == 2
    assert "uploading model.safetensors: the hub answered 400" in done.stderr
    assert hub.state()["commits"] == []


def test_a_hub_without_xet_takes_large_files_all_the_same(papers: dict[str, Path], hub: Hub, publish: Publish) -> None:
    """The library asks no hub whether it has xet: where hf_xet is installed, it takes xet or fails."""
    pytest.importorskip("hf_xet")
    done = publish(papers["tuned"], "--to", "someone/tuned", "--yes", xet=True)
    assert done.returncode == 0, done.stderr
    assert hub.files("models/someone/tuned")["model.safetensors"] == (papers["tuned"] / "model.safetensors").read_bytes()
    assert hub.state()["calls"].count("xet") == 1
    assert hashlib.sha256((papers["tuned"] / "model.safetensors").read_bytes()).hexdigest() in hub.state()["puts"]


@pytest.mark.parametrize("installed", [True, False])
def test_a_hub_with_xet(papers: dict[str, Path], publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                        installed: bool) -> None:
    if installed:
        pytest.importorskip("hf_xet")
    else:
        monkeypatch.setitem(_runtime._package_versions, "hf_xet", "N/A")
    storage = tmp_path / "storage"
    with serving([sys.executable, str(HERE / "hub_server.py"), TOKEN, "0", str(storage)]) as hub:
        for _ in range(2):
            done = publish(papers["tuned"], "--to", "someone/tuned", "--yes", xet=True, endpoint=hub.url)
            assert done.returncode == 0, done.stderr
        state = hub.state()
    assert state["repos"]["models/someone/tuned"]["files"]["model.safetensors"]
    assert bool(state["puts"]) != installed
    stored = [path for path in storage.rglob("*") if path.is_file()] if installed else []
    assert bool(stored) == installed
    assert len(state["commits"]) == 1  # the second run found everything there


def test_xet_storage_that_is_out_of_reach(papers: dict[str, Path], hub: Hub, publish: Publish,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr("biomistral.publishing.transfer._has_xet_there", lambda hub, place: True)  # it had, a moment ago
    done = publish(papers["tuned"], "--to", "someone/tuned", "--yes", xet=True)
    assert done.returncode == 2
    assert "uploading model.safetensors: the hub cannot be reached (Network error" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


REFUSED = [
    ({"whoami": ["401"]}, "someone/tuned", "the hub refused it (401): it does not know HF_TOKEN"),
    ({}, "stranger/tuned", "making stranger/tuned: the hub refused it (403): HF_TOKEN may not write there"),
    ({"whoami": ["echo"]}, "someone/tuned", "you sent Bearer ***"),
]


@pytest.mark.parametrize(("faults", "repo", "message"), REFUSED)
def test_refusals_in_one_line_without_the_token(papers: dict[str, Path], hub: Hub, publish: Publish, faults: Any, repo: str,
                                                message: str) -> None:
    hub.order(**faults)
    done = publish(papers["tuned"], "--to", repo, "--yes")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert hub.state()["commits"] == []


def test_a_repository_that_is_there(papers: dict[str, Path], hub: Hub, publish: Publish) -> None:
    assert publish(papers["suite"], "--to", "someone/questions", "--yes", "--public").returncode == 0
    private = publish(papers["suite"], "--to", "someone/questions", "--yes")
    assert private.returncode == 2
    assert "is there and public; publish to it with --public" in private.stderr
    other = publish(papers["corpus"], "--to", "someone/questions", "--yes", "--public")
    assert other.returncode == 2
    assert "holds 2 files that this folder does not have (benchmark.json, questions.parquet)" in other.stderr
    done = publish(papers["corpus"], "--to", "someone/questions", "--yes", "--public", "--replace")
    assert done.returncode == 0, done.stderr
    assert "questions.parquet" not in hub.files("datasets/someone/questions")
    assert "documents.parquet" in hub.files("datasets/someone/questions")
    assert len(hub.state()["commits"]) == 2


def test_a_library_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.31.0")
    with pytest.raises(UserError, match=r"needs huggingface_hub 2.4 or newer, here is 1.31.0; .*biomistral\[hub\]"):
        find_hub()


def test_no_network_no_token_no_clear_text(papers: dict[str, Path], hub: Hub, publish: Publish) -> None:
    cases = [({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"), ({"token": ""}, "HF_TOKEN is not set"),
             ({"token": "two words"}, "HF_TOKEN holds characters"), ({"endpoint": "http://example.org"}, "is not https")]
    for more, message in cases:
        done = publish(papers["tuned"], "--to", "someone/tuned", "--yes", **more)
        assert done.returncode == 2
        assert message in done.stderr
    assert hub.state()["calls"] == []


# ---- what forbids it --------------------------------------------------------------------------------------------------


def problems(folder: Path, public: bool = False, rights: bool = False) -> str:
    return "\n".join(make_plan(folder, "someone/x", public, rights).problems)


def test_nothing_speaks_against_a_sound_folder(papers: dict[str, Path]) -> None:
    for name in ("tuned", "corpus", "suite"):
        plan = make_plan(papers[name], "someone/x", True, False)
        assert plan.problems == []
        check(plan)
    assert "PUBLIC" in render(plan)


def test_unfinished_and_misnamed(papers: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    for folder, repo, message in ((tmp_path / "half", "a/b", "not a finished artifact"), (papers["tuned"], "b", "whose is it"),
                                  (papers["tuned"], "a/b c", "no name on the hub"),
                                  (papers["tuned"], "a/b/c", "no name on the hub"), (papers["tuned"], "a/-b", "no name"),
                                  (papers["results"], "a/b", "has no card")):
        with pytest.raises(UserError, match=message):
            make_plan(folder, repo, False, False)


def test_cards_that_do_not_do(papers: dict[str, Path]) -> None:
    card = papers["tuned"] / "README.md"
    text = card.read_text()
    assert "there is no card; write it with: biomistral card" in problems(papers["adapted"])
    card.write_text("---\nlicense: [mit\n---\n# x\n")
    assert "cannot read its metadata" in problems(papers["tuned"])
    card.write_text("# By hand\n")
    assert "states no licence" in problems(papers["tuned"])
    card.write_text("---\nlicense: mit\n---\n# By hand\n")
    assert problems(papers["tuned"]) == ""
    card.write_text(text.replace(open_artifact(papers["tuned"]).key, "0" * 64))
    assert "is about another folder" in problems(papers["tuned"])


def test_files_that_do_not_belong(papers: dict[str, Path], tmp_path: Path) -> None:
    (papers["tuned"] / ".env").write_text("X=1")
    (papers["tuned"] / "adapter" / "notes.txt").write_text("mine")
    (papers["tuned"] / "link").symlink_to(tmp_path)
    (papers["tuned"] / "config.json").write_text("{ }")
    found = problems(papers["tuned"])
    for name in (".env: was not written", "notes.txt: was not written", "link: is a link", "config.json: differs from the hash"):
        assert name in found
    with pytest.raises(UserError, match=r"\(and 3 more: leave out --yes to see all\)"):
        check(make_plan(papers["tuned"], "a/b", False, False))


def test_secrets_are_found_and_not_shown(papers: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = papers["tuned"] / "README.md"
    with card.open("a") as stream:
        stream.write(f"\nuse {TOKEN}\n")
    found = problems(papers["tuned"])
    assert "holds a Hugging Face token" in found
    assert TOKEN not in found
    monkeypatch.setenv("MY_API_KEY", "a-value-of-my-own")
    (tmp_path / "x.json").write_text(" " * ((1 << 20) - 5) + "a-value-of-my-own")  # across the border of two pieces
    assert secrets_in(tmp_path / "x.json") == ["the value of MY_API_KEY"]
    (tmp_path / "y.md").write_text("-----BEGIN RSA PRIVATE KEY-----\nhttps://me:password@example.org")
    assert secrets_in(tmp_path / "y.md") == ["a private key", "a password in an address"]
    (tmp_path / "z.md").write_text("hf_short, sk-learn, https://example.org:80/a@b, AKIA")
    assert secrets_in(tmp_path / "z.md") == []


def test_licences_that_forbid_it(papers: dict[str, Path]) -> None:
    rewrite(papers["corpus"] / "manifest.json", lambda data: data.update(licences={"CC-BY-ND-4.0": 3, "CC-BY-NC-4.0": 1}))
    write_card(papers["corpus"], None, Wanted())
    assert "CC-BY-ND-4.0 allows no altered copies" in problems(papers["corpus"])
    assert "NC" not in problems(papers["corpus"]).partition("licences: ")[2]
    assert problems(papers["corpus"], rights=True) == ""
    rewrite(papers["suite"] / "manifest.json", lambda data: data.update(licences={"not stated": 1}))
    write_card(papers["suite"], None, Wanted())
    assert "the licence of questions of suite is not known" in problems(papers["suite"])
    write_card(papers["adapted"], None, Wanted())
    assert problems(papers["adapted"]) == ""  # private: nobody else sees it
    assert "the licence of the model weights.gguf" in problems(papers["adapted"], public=True)
    assert make_plan(papers["adapted"], "a/b", True, True).warnings


# ---- the manifest that is published -----------------------------------------------------------------------------------


def test_lineage_of_a_published_folder(papers: dict[str, Path], tmp_path: Path) -> None:
    manifest = public(open_artifact(papers["tuned"]).manifest)
    assert str(tmp_path) not in json.dumps(manifest)
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "manifest.json").write_text(json.dumps(manifest))
    node, original = lineage(tmp_path / "got"), lineage(papers["tuned"])
    assert [part.key for part in node.walk()] == [part.key for part in original.walk()]
    assert next(part for part in node.walk() if part.kind == "corpus").path == papers["corpus"]  # found beside it


PATHS = st.lists(st.sampled_from(["/a/x", "/b/x", "/a/x~2", "~/x", "/", "/a/y/", "plain", "hub:a/b", "x"]), max_size=6)


@given(PATHS)
def test_two_paths_never_become_one_name(paths: list[str]) -> None:
    shown = public({"files": {}, "inputs": paths})["inputs"]
    assert not any(name.startswith(("/", "~/")) for name in shown)
    absolute = [(path, name) for path, name in zip(paths, shown, strict=True) if path.startswith(("/", "~/"))]
    assert len({path for path, _ in absolute}) == len({name for _, name in absolute})
    assert [name for path, name in zip(paths, shown, strict=True) if not path.startswith(("/", "~/"))] == [
        path for path in paths if not path.startswith(("/", "~/"))]


def test_a_token_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert TOKEN not in repr(find_hub())
