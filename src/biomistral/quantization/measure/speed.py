"""Memory and speed of models, each measured in a process of its own, so that neither finds what another left."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from biomistral.errors import UserError


def measured(folder: Path, device: str, dtype: str) -> dict[str, Any]:
    """`biomistral.quantization.measure.probe.probe` of a model folder, in a fresh process.

    Raises:
        UserError: that process ended badly; its last words are told.
    """
    command = [sys.executable, "-m", "biomistral.quantization.measure.probe", str(folder), device, dtype]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"})
    if ended.returncode != 0:
        words = ended.stderr.strip().splitlines()[-1:] or [f"ended with {ended.returncode}"]
        raise UserError(f"{folder}: memory and speed could not be measured ({words[0]}); free memory, or give --no-speed")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found
