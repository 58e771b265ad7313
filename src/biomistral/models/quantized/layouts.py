"""The layouts a quantised layer is written in and read from, told apart by ``quantization_config`` of config.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from biomistral.errors import UserError
from biomistral.models.quantized import awq, pack_quantized
from biomistral.models.quantized.matrix import IntMatrix

LayoutName = Literal["autoawq", "compressed-tensors"]
_AWQ_EXPECTED = {"bits": awq.BITS, "zero_point": True}
_GEMV_GROUPS = (32, 64, 128)  # its qzeros have the same width for larger ones
_UNREAD = ("kv_cache_scheme", "transform_config", "sparsity_config")


@dataclass(frozen=True)
class Layout:
    """A layer's tensors: ``suffixes`` behind its name, the first of which marks it as quantised; ``optional`` may be there."""

    suffixes: tuple[str, ...]
    unpack: Callable[[dict[str, Tensor]], IntMatrix]
    optional: tuple[str, ...] = ()

    def layers(self, names: Mapping[str, Any]) -> list[str]:
        """The quantised layers among tensors of these names."""
        marker = f".{self.suffixes[0]}"
        return sorted(name.removesuffix(marker) for name in names if name.endswith(marker))


AWQ_GEMM = Layout(awq.SUFFIXES, awq.unpack)
AWQ_GEMV = Layout(awq.SUFFIXES, awq.unpack_gemv)
PACK_QUANTIZED = Layout(pack_quantized.SUFFIXES, pack_quantized.unpack, (pack_quantized.ZEROS,))
WRITTEN: dict[LayoutName, Layout] = {"autoawq": AWQ_GEMM, "compressed-tensors": PACK_QUANTIZED}


def check_writable(layout: LayoutName, name: str, outputs: int, bits: int) -> None:
    """
    Raises:
        UserError: the layout cannot hold the layer ``name`` of so many outputs in so many bits.
    """
    if layout == "autoawq" and (bits != awq.BITS or outputs % 8):
        found = f"{bits} bits" if bits != awq.BITS else f"'{name}' with {outputs} outputs, no multiple of 8"
        raise UserError(f"layout: autoawq cannot hold {found}; use layout: compressed-tensors")
    if bits not in pack_quantized.BITS:
        raise UserError(f"layout: {layout} cannot hold {bits} bits, only {' or '.join(map(str, pack_quantized.BITS))}")


def pack(layout: LayoutName, matrix: IntMatrix, symmetric: bool) -> dict[str, Tensor]:
    """A layer's tensors by suffix; AutoAWQ's layout stores zero points, middle ones too."""
    return awq.pack(matrix) if layout == "autoawq" else pack_quantized.pack(matrix, symmetric)


def config_entry(layout: LayoutName, group_size: int, symmetric: bool, bits: int, ignore: tuple[str, ...] = ("lm_head",),
                 ) -> dict[str, Any]:
    """What stands under ``quantization_config`` in config.json; ``ignore``: linear layers that stay in 16 bits."""
    if layout == "autoawq":
        return awq.config_entry(group_size)
    return pack_quantized.config_entry(group_size, symmetric, bits, ignore)


def is_known(entry: Mapping[str, Any]) -> bool:
    """Whether ``quantization_config`` names a family of layouts that `layout_of` knows."""
    return entry.get("quant_method") in ("awq", "compressed-tensors")


def layout_of(folder: Path, entry: Mapping[str, Any]) -> Layout:
    """The layout of the model in ``folder``, whose config.json has ``entry`` under ``quantization_config``.

    Raises:
        UserError: it is none of those that can be read, or does more than store linear layers in integers.
    """
    return _awq_layout(folder, entry) if entry["quant_method"] == "awq" else _compressed_layout(folder, entry)


def _refuse(folder: Path, key: str, found: object, readable: str) -> UserError:
    return UserError(f"{folder / 'config.json'}: quantization_config.{key} is {found!r}; only models with {readable} can be read "
                     "here, make the model again in that form or use its 16-bit original")


def _awq_layout(folder: Path, entry: Mapping[str, Any]) -> Layout:
    for key, expected in _AWQ_EXPECTED.items():
        if entry.get(key, expected) != expected:
            raise _refuse(folder, key, entry[key], f"AWQ's {key} {expected!r}")
    version = str(entry.get("version", "gemm")).lower()
    if version not in ("gemm", "gemv"):
        raise _refuse(folder, "version", entry["version"], "AWQ's version 'gemm' or 'gemv'")
    if version == "gemv" and entry.get("group_size") not in _GEMV_GROUPS:
        raise _refuse(folder, "group_size", entry.get("group_size"), "AWQ's gemv in groups of 32, 64 or 128")
    return AWQ_GEMM if version == "gemm" else AWQ_GEMV


def _compressed_layout(folder: Path, entry: Mapping[str, Any]) -> Layout:
    if entry.get("format") != "pack-quantized":
        raise _refuse(folder, "format", entry.get("format"), "compressed-tensors' format 'pack-quantized'")
    for key in _UNREAD:
        found = entry.get(key) or {}
        if found and found != {"format": "dense"} and set(found.values()) != {None}:
            raise _refuse(folder, key, found, f"compressed-tensors without {key}")
    for name, group in (entry.get("config_groups") or {}).items():
        weights, where = group.get("weights") or {}, f"config_groups.{name}"
        if weights.get("type", "int") != "int" or weights.get("num_bits") not in pack_quantized.BITS:
            raise _refuse(folder, f"{where}.weights", f"{weights.get('type')}{weights.get('num_bits')}", "int4 or int8 weights")
        for key in ("input_activations", "output_activations"):
            if group.get(key) is not None:
                raise _refuse(folder, f"{where}.{key}", group[key], "activations in 16 bits")
        if weights.get("actorder") == "group":
            raise _refuse(folder, f"{where}.weights.actorder", "group", "inputs in their own order (actorder null or 'static')")
    return PACK_QUANTIZED
