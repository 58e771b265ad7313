"""How long to wait before a request is sent again."""

import email.utils
import secrets
import time
from collections.abc import Mapping

FIRST_SECONDS, MOST_SECONDS = 1.0, 60.0
LONGEST_ASKED_SECONDS = 600.0
"""What a server may ask for; one that asks for more means tomorrow."""


def backoff(failures: int) -> float:
    """Seconds after so many failures in a row: doubling up to a minute, each drawn from its upper half, so that many requests
    thrown out together do not come back together. The draw decides no result."""
    most = min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** (failures - 1))
    return most * (0.5 + secrets.randbelow(1000) / 2000)


def asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait (``Retry-After`` as seconds or as a date, ``retry-after-ms``); None: it says nothing."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers.get(name, "")) / unit)
        except ValueError:
            continue
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
