"""Merges on a CPU and on a GPU: the same bytes, and how long each takes, on checkpoints of 1.0 B parameters made on the spot.

    python perf/gpu/merge.py                      # five methods; writes perf/results/gpu_merge.json
    python perf/gpu/merge.py --parameters 1e7 --device cpu --dry   # the same code on a CPU, which writes nothing
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from merge import FILES, Bench

RESULTS = Path(__file__).parents[1] / "results" / "gpu_merge.json"


def digest(folder: Path) -> str:
    """SHA-256 of a model's weights."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()


def compare(bench: Bench, method: str, device: str) -> dict[str, Any]:
    """One method on both, after a first run of each that warms caches up."""
    row: dict[str, Any] = {}
    for where in ("cpu", device):
        bench.ours(method, "--device", where)
        row[where] = bench.ours(method, "--device", where) | {"sha256": digest(bench.work / "ours")}
    row["same_bytes"] = row["cpu"]["sha256"] == row[device]["sha256"]
    print(f"{method:16} {'the same bytes' if row['same_bytes'] else 'OTHER BYTES'}; wall: cpu {row['cpu']['wall_s']:.1f} s, "
          f"{device} {row[device]['wall_s']:.1f} s", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--methods", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        bench = Bench(work, Path(), arguments.parameters)
        bench.make("ABC")
        found = {method: compare(bench, method, arguments.device) for method in arguments.methods}
    finally:
        shutil.rmtree(work)
    if not arguments.dry:
        RESULTS.write_text(json.dumps({"parameters": bench.parameters, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
