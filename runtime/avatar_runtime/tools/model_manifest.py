"""The manifest of a downloaded folder: which files it has, and their SHA-256.

Two formats are read: the output of `sha256sum`, and the `manifest.json` that `avatar-runtime
convert` writes.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from avatar_runtime import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_BYTES: Final = 1 << 20
MAX_FILES: Final = 1000
_LONGEST_PATH: Final = 512
_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")  # the format of GNU coreutils
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def parse(url: str, content: bytes) -> Mapping[str, str]:
    """Return the SHA-256 of each file by its path, which is relative and stays in the folder.

    Raises:
        FetchError: the content is not a manifest; names the first line or file that is wrong.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise errors.FetchError(url, "the manifest is not UTF-8 text") from error
    pairs = _of_json(url, text) if text.lstrip().startswith("{") else _of_lines(url, text)
    found: dict[str, str] = {}
    for path, digest in pairs:
        if len(found) == MAX_FILES:
            raise errors.FetchError(url, f"the manifest names more than {MAX_FILES} files")
        if fault := _fault(path, digest):
            raise errors.FetchError(url, f"the manifest names the file {path[:100]!r}: {fault}")
        if found.setdefault(path, digest) != digest:
            raise errors.FetchError(url, f"the manifest names the file {path!r} twice")
    if not found:
        raise errors.FetchError(url, "the manifest names no file")
    return found


def _of_lines(url: str, text: str) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            fault = f"line {number} of the manifest must be 64 hexadecimal digits and a path"
            raise errors.FetchError(url, fault)
        yield match[2].removeprefix("./"), match[1]


def _of_json(url: str, text: str) -> Iterable[tuple[str, str]]:
    try:
        files = json.loads(text)["files"]
        return [(str(path), str(digest)) for path, digest in files.items()]
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        fault = "the manifest must be a JSON object with the object files, or lines of sha256sum"
        raise errors.FetchError(url, fault) from error


def _fault(path: str, digest: str) -> str:
    if not _SHA256.fullmatch(digest):
        return "its SHA-256 must be 64 lowercase hexadecimal digits"
    parts = path.split("/")
    wrong = any(part.startswith(".") or not part for part in parts)
    if wrong or PurePosixPath(path).is_absolute():
        return "must be a relative path without '..' and without hidden files"
    if len(path) > _LONGEST_PATH or not path.isprintable() or set(path) & set("\\?#%"):
        limit = "printable characters without '\\', '?', '#' and '%'"
        return f"must have at most {_LONGEST_PATH} {limit}"
    return ""
