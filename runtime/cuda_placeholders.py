"""Writes placeholders of the CUDA libraries that torch links to, for an image without them.

The package index has torch for Linux with CUDA only. That build cannot be loaded without the 3 GB
of CUDA libraries, although it calls none of them without a GPU. A placeholder has the name and the
symbols of such a library and no code: a call ends the process. `libcudart` stays real, because
torch registers its kernels with it when it is loaded.

The files are ELF shared objects of 64 bits (System V ABI, "Program Loading and Dynamic Linking")
with version definitions (Linux Standard Base, "Symbol Versioning"). Needs pyelftools. Usage:

    python cuda_placeholders.py SITE_PACKAGES/torch/lib
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

CUDA: Final = ("libcu", "libnccl", "libnv")
REAL: Final = ("libcuda.so", "libcudart.so")
"""The driver, which torch looks for by itself, and the library that stays."""
UNVERSIONED: Final = {"libnccl": "nccl", "libcufile": "cuFile", "libcusparseLt": "cusparseLt"}
"""Libraries whose symbols have no version, by the prefix of the symbols."""
MACHINES: Final = {"EM_X86_64": 62, "EM_AARCH64": 183}
DATA_BYTES: Final = 4096
"""Every symbol points to this area of zeros, which is not executable."""


@dataclass(slots=True)
class Placeholder:
    """One missing library: its file name and the symbols that others take from it, by version."""

    name: str
    symbols: dict[str, str] = field(default_factory=dict)


def missing_libraries(folder: Path) -> tuple[dict[str, Placeholder], int]:
    """Return the CUDA libraries that are needed in a folder and missing, and the machine."""
    from elftools.elf.elffile import ELFFile

    files = sorted(folder.glob("*.so*"))
    there = {file.name for file in files}
    found: dict[str, Placeholder] = {}
    machine = 0
    for file in files:
        with file.open("rb") as stream:
            elf = ELFFile(stream)
            machine = MACHINES[elf["e_machine"]]
            for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED"):
                name: str = tag.needed
                if name.startswith(CUDA) and not name.startswith(REAL) and name not in there:
                    found.setdefault(name, Placeholder(name))
            _collect_symbols(elf, found)
    return found, machine


def _collect_symbols(elf: ELFFile, found: dict[str, Placeholder]) -> None:
    versions = {}
    needs = elf.get_section_by_name(".gnu.version_r")
    for need, entries in needs.iter_versions() if needs else ():
        for entry in entries:
            versions[entry["vna_other"]] = (need.name, entry.name)
    numbers = elf.get_section_by_name(".gnu.version")
    for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
        if symbol["st_shndx"] != "SHN_UNDEF" or not symbol.name:
            continue
        number = numbers.get_symbol(index)["ndx"] if numbers else "VER_NDX_GLOBAL"
        library, version = versions.get(number, ("", ""))
        if library in found:
            found[library].symbols[symbol.name] = version
        elif not library:
            for placeholder in found.values():
                prefix = UNVERSIONED.get(placeholder.name.split(".")[0])
                if prefix and symbol.name.startswith(prefix):
                    placeholder.symbols[symbol.name] = ""


def shared_object(placeholder: Placeholder, machine: int) -> bytes:
    """Return the file of a placeholder: one segment, with the dynamic section at its end."""
    names = sorted(placeholder.symbols)
    version = next((v for v in placeholder.symbols.values() if v), "")
    strings, offsets = b"\0", {}
    for text in (placeholder.name, version, *names):
        offsets[text] = len(strings)
        strings += text.encode() + b"\0"
    headers = 64 + 3 * 56
    parts: dict[str, bytes] = {"strings": strings}
    parts["hash"] = _hash_table(names)
    parts["versym"] = struct.pack(f"<{len(names) + 1}H", 0, *((2 if version else 1,) * len(names)))
    parts["verdef"] = _version_definitions(placeholder.name, version, offsets)
    places, at = {}, headers
    for name, content in parts.items():
        places[name] = at
        at += len(content) + -len(content) % 8
    places["symbols"] = at
    data_at = at + 24 * (len(names) + 1)
    places["data"], places["dynamic"] = data_at, data_at + DATA_BYTES
    symbols = bytes(24) + b"".join(
        # A global function (STB_GLOBAL << 4 | STT_FUNC) in a section that is not SHN_ABS.
        struct.pack("<IBBHQQ", offsets[name], 0x12, 0, 1, data_at, 8)
        for name in names
    )
    dynamic = _dynamic(places, len(strings), offsets[placeholder.name], bool(version))
    size = places["dynamic"] + len(dynamic)
    body = b"".join(content + bytes(-len(content) % 8) for content in parts.values())
    header = _headers(machine, size, places["dynamic"], len(dynamic))
    return header + body + symbols + bytes(DATA_BYTES) + dynamic


def _headers(machine: int, size: int, dynamic_at: int, dynamic_size: int) -> bytes:
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    elf = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    read_write = 6
    load = struct.pack("<IIQQQQQQ", 1, read_write, 0, 0, 0, size, size, 0x10000)
    place = (dynamic_at, dynamic_at, dynamic_at, dynamic_size, dynamic_size, 8)
    dynamic = struct.pack("<IIQQQQQQ", 2, read_write, *place)
    # PT_GNU_STACK: without it, the loader makes the stack of the process executable.
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, read_write, 0, 0, 0, 0, 0, 16)
    return elf + load + dynamic + stack


def _hash_table(names: list[str]) -> bytes:
    """Return DT_HASH with one bucket for each symbol."""
    count = max(1, len(names))
    buckets, chains = [0] * count, [0] * (len(names) + 1)
    for index, name in enumerate(names, 1):
        bucket = _sysv_hash(name) % count
        chains[index], buckets[bucket] = buckets[bucket], index
    return struct.pack(f"<{2 + count + len(chains)}I", count, len(chains), *buckets, *chains)


def _sysv_hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


def _version_definitions(name: str, version: str, offsets: dict[str, int]) -> bytes:
    """Return the two Verdef entries of a library: its own name (base), and its version."""
    if not version:
        return b""
    entries = ((1, 1, name, 28), (0, 2, version, 0))
    return b"".join(
        struct.pack("<HHHHIII", 1, flags, index, 1, _sysv_hash(text), 20, following)
        + struct.pack("<II", offsets[text], 0)
        for flags, index, text, following in entries
    )


def _dynamic(places: dict[str, int], strings: int, soname: int, has_version: bool) -> bytes:
    tags = [(14, soname), (4, places["hash"]), (5, places["strings"]), (6, places["symbols"])]
    tags += [(10, strings), (11, 24)]
    if has_version:
        tags += [(0x6FFFFFF0, places["versym"]), (0x6FFFFFFC, places["verdef"]), (0x6FFFFFFD, 2)]
    return b"".join(struct.pack("<QQ", *tag) for tag in (*tags, (0, 0)))


def main() -> None:
    """Write the placeholders beside torch's own libraries."""
    folder = Path(sys.argv[1])
    found, machine = missing_libraries(folder)
    for placeholder in found.values():
        (folder / placeholder.name).write_bytes(shared_object(placeholder, machine))
        sys.stdout.write(f"{placeholder.name}: {len(placeholder.symbols)} symbols\n")


if __name__ == "__main__":
    main()
