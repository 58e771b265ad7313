"""How two models differ, tensor by tensor, read chunk by chunk: ``biomistral merge diff A B``."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomistral.memory import keep_freed_memory
from biomistral.merging.blocks import BLOCK, chunks
from biomistral.merging.checkpoint import Checkpoint, Reader, StoredTensor, open_checkpoint
from biomistral.merging.floats import widen
from biomistral.merging.plan import CHUNK
from biomistral.progress import bar

_NOT_WEIGHTS = ("architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path")


@dataclass(frozen=True)
class TensorDiff:
    """One tensor in two models.

    ``equal``: share of equal elements; ``distance``: |second - first| / |first| (None where the first is all zeros and the
    second is not); ``cosine`` between them (None where one is all zeros); ``largest``: the largest difference. None, too, where
    a value is not finite.
    """

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    equal: float
    distance: float | None
    cosine: float | None
    largest: float | None


def diff(first: Path, second: Path) -> dict[str, Any]:
    """Compare two model folders: tensors in one only, of another shape, equal bit for bit, and how far the rest lie apart.

    Raises:
        UserError: a folder is no model, or its weights are missing, truncated, corrupt or quantised.
    """
    keep_freed_memory()
    one, other = open_checkpoint("first", first), open_checkpoint("second", second)
    both = [name for name in one.tensors if name in other.tensors]
    shapes = {name: [list(model.tensors[name].shape) for model in (one, other)] for name in both
              if one.tensors[name].shape != other.tensors[name].shape}
    rows, reader = [], Reader(2)
    try:
        with bar("comparing tensors", len(both)) as progress:
            for name in both:
                if name not in shapes:
                    rows.append(_compare(name, one.tensors[name], other.tensors[name], reader))
                progress.advance()
    finally:
        reader.close()
    return {"first": str(first), "second": str(second), "tensors": [asdict(row) for row in rows],
            "identical": sum(row.equal == 1 for row in rows), "shapes": shapes,
            "only_in_first": _missing(one, other), "only_in_second": _missing(other, one), "config": _settings(one, other),
            "overall": _overall(rows)}


def _compare(name: str, first: StoredTensor, second: StoredTensor, reader: Reader) -> TensorDiff:
    equal, largest = 0, 0.0
    sums: list[list[float]] = [[], [], [], []]
    for start, count in chunks(first.numel, CHUNK):
        a = widen(reader.read(0, name, first, start, count), first.dtype)
        b = widen(reader.read(1, name, second, start, count), second.dtype)
        moved = b - a
        equal += count - int(np.count_nonzero(moved))  # NaN counts as different
        largest = float(np.maximum(largest, np.abs(moved).max()))  # which keeps a NaN
        for found, pair in zip(sums, ((moved, moved), (a, a), (b, b), (a, b)), strict=True):
            found.extend(_dots(*pair))
    distance, length, other = (math.sqrt(math.fsum(found)) for found in sums[:3])
    return TensorDiff(name, first.shape, (first.dtype.value, second.dtype.value), equal / max(1, first.numel),
                      _ratio(distance, length), _ratio(math.fsum(sums[3]), length * other, None),
                      largest if math.isfinite(largest) else None)


def _dots(first: np.ndarray, second: np.ndarray) -> list[float]:
    """Dot products of two float32 arrays, block by block."""
    whole = len(first) // BLOCK * BLOCK
    dots: list[float] = np.vecdot(first[:whole].reshape(-1, BLOCK), second[:whole].reshape(-1, BLOCK)).tolist()
    return dots + ([float(np.dot(first[whole:], second[whole:]))] if whole < len(first) else [])


def _ratio(value: float, by: float, of_zeros: float | None = 0.0) -> float | None:
    if by == 0 or not math.isfinite(value) or not math.isfinite(by):
        return of_zeros if value == 0 else None
    return value / by


def _missing(one: Checkpoint, other: Checkpoint) -> list[str]:
    return [name for name in one.tensors if name not in other.tensors]


def _settings(one: Checkpoint, other: Checkpoint) -> dict[str, list[Any]]:
    """Settings of config.json that differ."""
    names = [name for name in (one.config | other.config) if name not in _NOT_WEIGHTS]
    return {name: [one.config.get(name), other.config.get(name)] for name in names
            if one.config.get(name) != other.config.get(name)}


def _overall(rows: list[TensorDiff]) -> dict[str, float | None]:
    """Averages weighted by the tensors' sizes."""
    def mean(value: Callable[[TensorDiff], float | None]) -> float | None:
        known = [(number, math.prod(row.shape)) for row in rows if (number := value(row)) is not None]
        return math.fsum(number * size for number, size in known) / sum(size for _, size in known) if known else None

    return {"equal": mean(lambda row: row.equal), "distance": mean(lambda row: row.distance)}


def render(found: dict[str, Any], count: int = 0) -> str:
    """The comparison as a table, the farthest tensors first; ``count`` 0 shows all that differ."""
    rows = sorted((row for row in found["tensors"] if row["equal"] < 1),
                  key=lambda row: -math.inf if row["distance"] is None else -row["distance"])
    lines = [f"{len(found['tensors'])} tensors compared: {found['identical']} equal, {len(rows)} different"]
    for what, names in (("only in the first", found["only_in_first"]), ("only in the second", found["only_in_second"])):
        lines += [f"{what}: {name}" for name in names]
    lines += [f"shape differs: {name}: {first} and {second}" for name, (first, second) in found["shapes"].items()]
    lines += [f"config.json: {name}: {first!r} and {second!r}" for name, (first, second) in found["config"].items()]
    if rows:
        lines.append(f"{'distance':>9} {'cosine':>9} {'equal':>7} {'largest':>9}  tensor")
    lines += [f"{_number(row['distance'], '.5f')} {_number(row['cosine'], '.6f')} {row['equal']:7.1%} "
              f"{_number(row['largest'], '.2e')}  {row['name']}" for row in (rows[:count] if count else rows)]
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>9}"
