"""The manifest as it is published: without the folders of the machine on which things were made."""

import json
from typing import Any


def public(manifest: dict[str, Any]) -> dict[str, Any]:
    """Every absolute path becomes its last part; two different paths never become one name.

    Keys and hashes stay, so that `lineage` follows the published folder as it follows this one, and looks for inputs beside it.
    """
    names: dict[str, str] = {}
    kept = {name: _named(value, names) for name, value in manifest.items() if name != "files"}
    return {name: manifest["files"] if name == "files" else kept[name] for name in manifest}


def as_bytes(manifest: dict[str, Any]) -> bytes:
    """The file's bytes."""
    return (json.dumps(public(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _named(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        return _name(value, names) if value.startswith(("/", "~/")) else value
    if isinstance(value, dict):
        return {_named(name, names): _named(item, names) for name, item in value.items()}
    return [_named(item, names) for item in value] if isinstance(value, list) else value


def _name(path: str, names: dict[str, str]) -> str:
    if path not in names:
        last = path.rstrip("/").rpartition("/")[2] or "root"
        taken, number = set(names.values()), 1
        while (name := last if number == 1 else f"{last}~{number}") in taken:
            number += 1
        names[path] = name
    return names[path]
