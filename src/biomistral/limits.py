"""How much memory this process may still take: what the machine has free, within the limits of its control groups."""

import os
from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def _number(path: Path) -> int | None:
    """A file that holds one number; None if it is not there, or holds ``max``."""
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _row(path: Path, name: str) -> int | None:
    """The number beside ``name`` in a file of rows of names and numbers."""
    rows = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    found = [row.replace(":", " ").split() for row in rows if row.startswith(name)]
    return int(found[0][1]) if found else None


def _group_rooms(proc: Path, cgroup: Path) -> list[int]:
    """What each control group above this process has left; files it has read and could read again count as left."""
    own = (proc / "self" / "cgroup").read_text(encoding="utf-8") if (proc / "self" / "cgroup").is_file() else ""
    rooms = []
    for line in own.splitlines():
        _, controllers, place = line.split(":", 2)
        second = not controllers  # the one hierarchy of version 2; version 1 has one for each controller
        if not second and "memory" not in controllers.split(","):
            continue
        root, names = (cgroup, ("memory.max", "memory.current", "inactive_file")) if second else (
            cgroup / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
        inside = Path(place.lstrip("/"))
        for folder in [root, *(root / part for part in [*inside.parents, inside] if part != Path("."))]:
            limit, used = _number(folder / names[0]), _number(folder / names[1])
            if limit is not None and used is not None:
                rooms.append(limit - used + (_row(folder / "memory.stat", names[2]) or 0))
    return rooms


def available_memory_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Bytes that may still be taken here; where the system does not say what is free, all that the machine has."""
    free = _row(proc / "meminfo", "MemAvailable")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if free is None else free * 1024
    return max(0, min([machine, *_group_rooms(proc, cgroup)]))
