"""How large files travel: by xet where both sides have it, else by LFS. The library takes xet wherever its package is installed,
also to a hub that has none, and fails there; files that it is handed open go by LFS."""

from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from biomistral.publishing.hub import Hub
from biomistral.publishing.plan import File

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


def additions(hub: Hub, place: dict[str, Any], files: Sequence[File], opened: ExitStack) -> "list[CommitOperationAdd]":
    """The files as the library takes them; those that have to be open are closed with ``opened``.

    Raises:
        UserError: the hub refused to say whether it takes xet.
    """
    from huggingface_hub import CommitOperationAdd

    if _has_xet_here() and not _has_xet_there(hub, place):
        return [CommitOperationAdd(file.name, opened.enter_context(_open(file))) for file in files]
    return [CommitOperationAdd(file.name, file.source) for file in files]


def _open(file: File) -> BinaryIO:
    return BytesIO(file.source) if isinstance(file.source, bytes) else file.source.open("rb")


def _has_xet_here() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def _has_xet_there(hub: Hub, place: dict[str, Any]) -> bool:
    """Whether the hub gives out tokens for its xet storage."""
    from huggingface_hub import get_session, hf_raise_for_status

    url = f"{hub.api.endpoint}/api/{place['repo_type']}s/{place['repo_id']}/xet-write-token/main"

    def ask() -> bool:
        answer = get_session().get(url, headers={"Authorization": f"Bearer {hub.token}"})
        if answer.status_code in (404, 405, 501):
            return False
        hf_raise_for_status(answer)
        return True

    return hub.call(f"asking how {place['repo_id']} takes large files", ask)
