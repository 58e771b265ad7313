"""How long `biomistral --help` takes, and what it imports; the command line promises under 0.5 s."""

import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "startup.json"
COMMAND = [sys.executable, "-m", "biomistral.cli", "--help"]


def seconds() -> float:
    started = time.perf_counter()
    subprocess.run(COMMAND, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    seconds()  # the first run reads files from disk
    runs = [seconds() for _ in range(9)]
    found = {"median_seconds": round(statistics.median(runs), 3), "slowest_seconds": round(max(runs), 3),
             "promise_seconds": 0.5, "machine": f"{platform.machine()}, Python {platform.python_version()}"}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
