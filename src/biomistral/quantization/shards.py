"""A quantised model's weights in files of bounded size, each whole or not there: what was cut off goes on at the next one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from biomistral.files import write_json
from biomistral.models.skeleton import Weights
from biomistral.progress import track

MOST_BYTES = 1 << 30
"""Of 16-bit weights that go into one file: of 7 billion parameters about 14."""


def in_parts(sizes: Iterable[tuple[str, int]], most: int = MOST_BYTES) -> list[list[str]]:
    """Names in their order, cut where the bytes of a part would exceed ``most``; the cuts depend on the sizes alone."""
    parts: list[list[str]] = []
    held = 0
    for name, size in sizes:
        if not parts or held + size > most:
            parts.append([])
            held = 0
        parts[-1].append(name)
        held += size
    return parts


@dataclass(frozen=True)
class Shards:
    """``parts`` of a model's tensors in ``folder``, one file each."""

    folder: Path
    parts: Sequence[Sequence[str]]

    def path(self, number: int) -> Path:
        return self.folder / f"model-{number + 1:05d}-of-{len(self.parts):05d}.safetensors"

    def write(self, make: Callable[[str], dict[str, Tensor]], what: str) -> None:
        """Write the parts that are not there yet, then the index; ``make`` gives what is stored of a tensor."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink()
        for number, names in enumerate(track(self.parts, what)):
            if self.path(number).is_file():
                continue
            tensors = {stored: tensor for name in names for stored, tensor in make(name).items()}
            temporary = self.path(number).with_name(f".{self.path(number).name}.tmp")
            save_file(tensors, temporary, metadata={"format": "pt"})
            temporary.replace(self.path(number))
        paths = [self.path(number) for number in range(len(self.parts))]
        write_json(self.folder / "model.safetensors.index.json", {
            "metadata": {"total_size": sum(path.stat().st_size for path in paths)},
            "weight_map": {name: path.name for name, path in sorted(Weights(paths).place.items())}})
