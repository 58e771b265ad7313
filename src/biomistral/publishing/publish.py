"""``biomistral publish``: a finished folder and its card become a repository on the hub, in one commit."""

import hashlib
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.files import sha256
from biomistral.progress import track
from biomistral.publishing.hub import Hub, find_hub
from biomistral.publishing.plan import File, Plan
from biomistral.publishing.transfer import additions

log = logging.getLogger("biomistral.publishing")
_KEPT = (".gitattributes",)
_SHOWN = 5


@dataclass(frozen=True)
class Published:
    """What came of it."""

    url: str
    user: str
    private: bool
    sent: list[str]
    already_there: list[str]
    removed: list[str]


def check(plan: Plan) -> None:
    """
    Raises:
        UserError: something forbids publishing; the first thing is named, and how many there are.
    """
    if plan.problems:
        more = f" (and {len(plan.problems) - 1} more: leave out --yes to see all)" if len(plan.problems) > 1 else ""
        raise UserError(f"{plan.problems[0]}{more}")


def publish(plan: Plan, replace: bool = False) -> Published:
    """Send what is not there yet, then commit everything at once: the repository is as it was before, or complete.

    Large files are sent one by one; the hub keeps those that arrived, so that a run that was cut off goes on with the next one.

    Raises:
        UserError: see `check` and `find_hub`; the hub refused a call; the repository is public and ``plan`` is not; it holds
            other files and ``replace`` is off.
    """
    check(plan)
    hub = find_hub()
    place: dict[str, Any] = {"repo_id": plan.repo, "repo_type": plan.kind}
    user = hub.call("asking who HF_TOKEN belongs to", hub.api.whoami)["name"]
    hub.call(f"making {plan.repo}", lambda: hub.api.create_repo(**place, private=not plan.public, exist_ok=True))
    private = bool(hub.call(f"looking at {plan.repo}", lambda: hub.api.repo_info(**place)).private)
    if not private and not plan.public:
        raise UserError(f"{plan.repo} is there and public; publish to it with --public, or choose another name")
    there = _there(hub, place)
    missing = [file for file in plan.files if not _same(file, there.get(file.name))]
    others = sorted(set(there) - {file.name for file in plan.files} - set(_KEPT))
    if others and not replace:
        raise UserError(f"{plan.repo}: holds {len(others)} files that this folder does not have ({', '.join(others[:_SHOWN])}); "
                        "choose another name, or take them out in the same commit with --replace")
    if missing or others:
        _send(hub, place, plan, missing, others)
    _prove(hub, place, plan)
    url = f"{hub.api.endpoint}/{'datasets/' if plan.kind == 'dataset' else ''}{plan.repo}"
    sent, names = {file.name for file in missing}, {file.name for file in plan.files}
    return Published(url, user, private, sorted(sent), sorted(names - sent), others)


def _there(hub: Hub, place: dict[str, Any]) -> dict[str, Any]:
    """The files of the repository by name."""
    found = hub.call(f"listing {place['repo_id']}", lambda: list(hub.api.list_repo_tree(**place, recursive=True)))
    return {entry.path: entry for entry in found if hasattr(entry, "blob_id")}


def _same(file: File, there: Any) -> bool:
    """Whether the hub holds this file: large ones are known by their SHA-256, others by git's name for their bytes."""
    if there is None or there.size != file.size:
        return False
    if there.lfs is not None:
        own = sha256(file.source) if isinstance(file.source, Path) else hashlib.sha256(file.source).hexdigest()
        return bool(there.lfs.sha256 == own)
    data = file.source.read_bytes() if isinstance(file.source, Path) else file.source
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


def _send(hub: Hub, place: dict[str, Any], plan: Plan, missing: Sequence[File], others: Sequence[str]) -> None:
    from huggingface_hub import CommitOperationDelete
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()  # xet's are drawn into files too
    with ExitStack() as opened:
        added = additions(hub, place, missing, opened)
        # one by one: what has arrived stays on the hub, and memory and the loss of an interruption are bounded by one file
        for addition in track(added, f"uploading to {plan.repo}", total=len(added)):
            hub.call(f"uploading {addition.path_in_repo}",
                     lambda addition=addition: hub.api.preupload_lfs_files(  # type: ignore[misc]
                         plan.repo, additions=[addition], repo_type=plan.kind))
        operations = [*added, *(CommitOperationDelete(name) for name in others)]
        message = f"biomistral: {sum(file.blake3 is not None for file in plan.files)} files with their card"
        hub.call(f"committing to {plan.repo}",
                 lambda: hub.api.create_commit(**place, operations=operations, commit_message=message))


def _prove(hub: Hub, place: dict[str, Any], plan: Plan) -> None:
    """What the hub has now is what was meant."""
    there = _there(hub, place)
    wrong = [file.name for file in plan.files if not _same(file, there.get(file.name))]
    if wrong:
        raise UserError(f"{plan.repo}: {len(wrong)} files there are not those of this folder ({', '.join(wrong[:_SHOWN])}); "
                        "somebody else may write to it; run the same command again")


def render(plan: Plan) -> str:
    """The plan for people: every file, then where it goes, licence and what speaks against it."""
    lines = [f"{file.size:>14,}  {(file.blake3 or '')[:12]:12}  {file.name}" for file in plan.files]
    lines += [f"{plan.size:>14,}  bytes in {len(plan.files)} files (hashes: BLAKE3, as the manifest has them)", "",
              f"to:       {plan.kind} repository {plan.repo}, {'PUBLIC' if plan.public else 'private'}",
              f"licence:  {plan.licence}"]
    lines += [f"note:     {warning}" for warning in plan.warnings] + [f"problem:  {problem}" for problem in plan.problems]
    return "\n".join(lines)
