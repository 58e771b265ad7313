"""What settings say of a model behind a server: its name there, and fields that every request has besides."""

import json
from typing import Any

from pydantic import ValidationInfo


def served_name(name: Any, found: ValidationInfo) -> Any:
    """A name on a server is no input: nothing lies here whose content could be hashed. (A validator, behind ``engine``.)"""
    return str(name) if name is not None and found.data.get("engine") == "api" else name


def json_fields(body: dict[str, str]) -> dict[str, str]:
    """
    Raises:
        ValueError: a value is no JSON.
    """
    for name, value in body.items():
        try:
            json.loads(value)
        except ValueError as error:
            raise ValueError(f"{name}={value}: JSON was expected, e.g. 1, true, \"a word\" or null") from error
    return body
