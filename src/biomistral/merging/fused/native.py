"""The loops as machine code: compiled once for this processor by numba, kept, and from then on loaded in hundredths of a second.

Importing numba with its registries costs 0.8 CPU seconds (measured: 0.2 itself, 0.55 at the first call, cached or not), PyTorch
1.1, this 0.05: so numba is there only to compile.
"""

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from biomistral.files import cache_folder
from biomistral.merging.blocks import BLOCK
from biomistral.merging.floats import Float
from biomistral.merging.rows import address

SIGNATURES = {
    "peaks": "RiiI", "drift": "RiiiiFiF", "block_dots": "RiFiF", "linear": "RiFfviIF", "interpolate": "RffviI",
    "histogram": "vviiIiF", "draw": "BiiiiiF", "norms": "vviiIBiFiF", "add_task_vectors": "RiIIMIFFiffviIF"}
"""Arguments of every loop in `entries`: pointers to values as they are stored (v), to float32 (F), int64 (I) and uint8 (B), to
such pointers to values (R) and to uint8 (M); an int64 (i), a float32 (f). All return an int64."""

_C: dict[str, Any] = {"i": ctypes.c_int64, "f": ctypes.c_float}
_SOURCES = ("entries", "measures", "steps", "sums", "thinning", "vectors", "drawing")
_lock = threading.Lock()


def run(name: str, dtype: Float, *arguments: Any) -> int:
    """Run a loop over values of a type, without Python's lock; arrays are contiguous and stay where they are."""
    return _loop(name, _typed(name, dtype))(*[address(one) if isinstance(one, np.ndarray) else one for one in arguments])


def prepare(name: str, dtype: Float) -> None:
    """Have a loop compiled and loaded before it is needed."""
    _loop(name, _typed(name, dtype))


def _typed(name: str, dtype: Float) -> Float:
    """The type a loop is compiled for: the same for all where it takes no values of one."""
    return dtype if _takes_values(name) else Float.F32


@cache
def _takes_values(name: str) -> bool:
    return not {"v", "R"}.isdisjoint(SIGNATURES[name])


def spare(rows: int) -> np.ndarray:
    """Space for a loop to work in: rows of a block of float32 each."""
    found: np.ndarray = np.empty((rows, BLOCK), np.float32)
    return found


@cache
def _loop(name: str, dtype: Float) -> Callable[..., int]:
    with _lock:
        engine = _engine()
        engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(machine_code(name, dtype)))
        engine.finalize_object()
        address = engine.get_function_address(_symbol(name, dtype))
    assert address, name
    kinds = (_C.get(kind, ctypes.c_void_p) for kind in SIGNATURES[name])
    return ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(address)


def _symbol(name: str, dtype: Float) -> str:
    return f"biomistral_{name}_{dtype.value}"


def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_features(), opt=3, codemodel="jitdefault", jit=True)


@cache
def _features() -> str:
    """The processor's, with vectors as wide as it has them: LLVM halves them on most that have 512 bits (1.6 times slower)."""
    found = llvm.get_host_cpu_features()
    return str(found.flatten()) + (",-prefer-256-bit" if found.get("avx512f") else "")


@cache
def _engine() -> Any:
    """What holds the loaded code, for as long as the process lives."""
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())


@cache
def _key() -> str:
    """Of everything that the machine code depends on: sources, compilers, processor."""
    parts = [(Path(__file__).parent / f"{name}.py").read_bytes() for name in _SOURCES]
    parts += [text.encode() for text in (repr(SIGNATURES), metadata.version("numba"), metadata.version("llvmlite"),
                                         llvm.get_host_cpu_name(), _features())]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def machine_code(name: str, dtype: Float) -> bytes:
    """An object file with one loop; made where it is not kept yet."""
    kept = cache_folder() / "loops" / _key() / f"{name}-{dtype.value}.o"
    if kept.is_file():
        return kept.read_bytes()
    code = _compile(name, dtype)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_bytes(code)
        fresh.replace(kept)
    except OSError:  # a home that cannot be written: compiled again next time
        pass
    return code


def _compile(name: str, dtype: Float) -> bytes:
    os.environ.setdefault("NUMBA_CPU_FEATURES", _features())  # read when numba is first imported
    from numba import cfunc, types

    from biomistral.merging.fused import entries

    stored = types.uint16 if dtype is Float.BF16 else types.float32
    kinds = {"v": types.CPointer(stored), "R": types.CPointer(types.CPointer(stored)), "F": types.CPointer(types.float32),
             "I": types.CPointer(types.int64), "B": types.CPointer(types.uint8),
             "M": types.CPointer(types.CPointer(types.uint8)), "i": types.int64, "f": types.float32}
    made = cfunc(types.int64(*(kinds[kind] for kind in SIGNATURES[name])), error_model="numpy")(getattr(entries, name))
    module = llvm.parse_assembly(made.inspect_llvm().replace(made.native_name, _symbol(name, dtype)))
    module.link_in(llvm.parse_assembly(_without_numba(module)))
    code: bytes = _target().emit_object(module)
    return code


def _without_numba(module: Any) -> str:
    """Traps in the place of numba's and Python's functions, which allocate, free or raise: the loops do none of these."""
    names = [function.name for function in module.functions
             if function.is_declaration and function.name.startswith(("NRT_", "numba_", "Py"))]
    traps = [f'define void @"{name}"() {{\n call void @llvm.trap()\n unreachable\n}}' for name in names]
    return "\n".join(["declare void @llvm.trap()", *traps])
