"""Loops as machine code: compiled once for this processor by numba, kept, and from then on loaded in hundredths of a second.

Importing numba with its registries costs 0.8 CPU seconds (measured: 0.2 itself, 0.55 at the first call, cached or not), PyTorch
1.1, this 0.05: so numba is there only to compile.
"""

import ctypes
import hashlib
import importlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from biomistral.files import cache_folder

STORED = ("bfloat16", "float32")
"""What values (v) may be stored as; bfloat16 as its bits in uint16."""

_C: dict[str, Any] = {"i": ctypes.c_int64, "f": ctypes.c_float}
_lock = threading.Lock()


class Loops:
    """The functions of one module, ``entries``, as functions of C.

    ``signatures`` names the arguments of each: pointers to values as they are stored (v), to float32 (F), int64 (I) and uint8
    (B), to such pointers to values (R) and to uint8 (M); an int64 (i), a float32 (f). All return an int64. ``sources`` are the
    modules the code depends on: another text is another code.
    """

    def __init__(self, entries: str, signatures: Mapping[str, str], sources: Sequence[Path]) -> None:
        self.entries, self.signatures = entries, signatures
        self._sources = (*sources, *sorted(Path(__file__).parent.glob("*.py")))
        self._loaded: dict[tuple[str, str], Callable[..., int]] = {}

    def function(self, name: str, stored: str) -> Callable[..., int]:
        """A loop over values of a type, compiled and loaded where it is not yet; it runs without Python's lock."""
        found = self._loaded.get((name, stored))
        return found or self._load(name, stored if self.takes_values(name) else "float32", stored)

    def takes_values(self, name: str) -> bool:
        """Whether a loop is another for another type of values."""
        return not {"v", "R"}.isdisjoint(self.signatures[name])

    def machine_code(self, name: str, stored: str) -> bytes:
        """An object file with one loop; made where it is not kept yet."""
        kept = cache_folder() / "loops" / self.key() / f"{name}-{stored}.o"
        if kept.is_file():
            return kept.read_bytes()
        code = self._compile(name, stored)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            fresh = kept.with_suffix(f".{os.getpid()}.tmp")
            fresh.write_bytes(code)
            fresh.replace(kept)
        except OSError:  # a home that cannot be written: compiled again next time
            pass
        return code

    def _load(self, name: str, stored: str, asked: str) -> Callable[..., int]:
        with _lock:
            if (name, stored) not in self._loaded:
                engine = _engine()
                engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(self.machine_code(name, stored)))
                engine.finalize_object()
                address = engine.get_function_address(self._symbol(name, stored))
                assert address, name
                kinds = (_C.get(kind, ctypes.c_void_p) for kind in self.signatures[name])
                self._loaded[name, stored] = ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(address)
            self._loaded[name, asked] = self._loaded[name, stored]
            return self._loaded[name, asked]

    def _symbol(self, name: str, stored: str) -> str:
        return f"biomistral_{self.entries.replace('.', '_')}_{name}_{stored}"

    @cache  # noqa: B019  (one a room, for as long as the process lives)
    def key(self) -> str:
        """Of everything that the machine code depends on: sources, compilers, processor."""
        parts = [path.read_bytes() for path in self._sources]
        parts += [text.encode() for text in (repr(self.signatures), metadata.version("numba"), metadata.version("llvmlite"),
                                             llvm.get_host_cpu_name(), _features())]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]

    def _compile(self, name: str, stored: str) -> bytes:
        os.environ.setdefault("NUMBA_CPU_FEATURES", _features())  # read when numba is first imported
        from numba import cfunc, types

        value = types.uint16 if stored == "bfloat16" else types.float32
        kinds = {"v": types.CPointer(value), "R": types.CPointer(types.CPointer(value)), "F": types.CPointer(types.float32),
                 "I": types.CPointer(types.int64), "B": types.CPointer(types.uint8),
                 "M": types.CPointer(types.CPointer(types.uint8)), "i": types.int64, "f": types.float32}
        function = getattr(importlib.import_module(self.entries), name)
        made = cfunc(types.int64(*(kinds[kind] for kind in self.signatures[name])), error_model="numpy")(function)
        module = llvm.parse_assembly(made.inspect_llvm().replace(made.native_name, self._symbol(name, stored)))
        module.link_in(llvm.parse_assembly(_without_numba(module)))
        code: bytes = _target().emit_object(module)
        return code


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


def has_feature(name: str) -> bool:
    """Whether the processor, and the system that runs on it, have a feature by LLVM's name."""
    return bool(llvm.get_host_cpu_features().get(name))


@cache
def _engine() -> Any:
    """What holds the loaded code, for as long as the process lives."""
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())


def _without_numba(module: Any) -> str:
    """Traps in the place of numba's and Python's functions, which allocate, free or raise: the loops do none of these."""
    names = [function.name for function in module.functions
             if function.is_declaration and function.name.startswith(("NRT_", "numba_", "Py"))]
    traps = [f'define void @"{name}"() {{\n call void @llvm.trap()\n unreachable\n}}' for name in names]
    return "\n".join(["declare void @llvm.trap()", *traps])
