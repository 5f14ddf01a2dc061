"""Placeholders of CUDA's libraries load, with the symbols and versions of the real ones."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

FILE = Path(__file__).parents[2] / "runtime/cuda_placeholders.py"
MACHINE = {"x86_64": 62, "aarch64": 183}


@pytest.fixture(scope="module")
def placeholders() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_placeholders", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write(placeholders: Any, folder: Path, name: str, symbols: dict[str, str]) -> Path:
    made = placeholders.Placeholder(name, symbols)
    file = folder / name
    file.write_bytes(placeholders.shared_object(made, MACHINE[platform.machine()]))
    return file


def test_versioned_symbols_are_found(placeholders: ModuleType, tmp_path: Path) -> None:
    names = {f"cublasPlaceholder{number}": "libcublas.so.13" for number in range(200)}
    file = write(placeholders, tmp_path, "libcublas.so.13", names)
    library = ctypes.CDLL(str(file))
    for name in names:
        assert ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    with pytest.raises(AttributeError):
        _ = library.cublasMissing
    loader = ctypes.CDLL(None)
    dlopen, dlvsym = loader.dlopen, loader.dlvsym
    dlopen.restype = dlvsym.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(dlopen(str(file).encode(), os.RTLD_NOW))
    assert dlvsym(handle, b"cublasPlaceholder7", b"libcublas.so.13")
    assert not dlvsym(handle, b"cublasPlaceholder7", b"libcublas.so.12")


def test_library_without_versions_or_symbols_loads(
    placeholders: ModuleType, tmp_path: Path
) -> None:
    library = ctypes.CDLL(str(write(placeholders, tmp_path, "libnccl.so.2", {"ncclSend": ""})))
    assert ctypes.cast(library.ncclSend, ctypes.c_void_p).value
    ctypes.CDLL(str(write(placeholders, tmp_path, "libcuempty.so.1", {})))


def test_a_call_ends_the_process(placeholders: ModuleType, tmp_path: Path) -> None:
    file = write(placeholders, tmp_path, "libcudnn.so.9", {"cudnnCreate": "libcudnn.so.9"})
    code = f"import ctypes; ctypes.CDLL({str(file)!r}).cudnnCreate()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode < 0
