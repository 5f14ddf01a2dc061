"""No file names a package registry or a path of the machine it was written on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Written in parts, so that this file does not name what it looks for.
HOSTS = [
    rb"pypi" + rb"\.org",
    rb"pythonhosted" + rb"\.org",
    rb"proxy" + rb"\.golang\.org",
    rb"sum" + rb"\.golang\.org",
    rb"registry" + rb"\.npmjs\.org",
    rb"deb" + rb"\.debian\.org",
]
PATHS = [rb"(?<![\w.])/work" + rb"/main", rb"(?<![\w.])/root" + rb"/\."]


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.split(b"\0")
    return [ROOT / name.decode() for name in names if name]


def test_tracked_files_name_no_registry_and_no_machine_path() -> None:
    files = [path for path in tracked() if path.is_file()]
    pattern = re.compile(b"|".join(HOSTS + PATHS))
    assert len(files) > 20
    hits = [str(path.relative_to(ROOT)) for path in files if pattern.search(path.read_bytes())]
    assert hits == []


def test_locks_hold_hashes() -> None:
    for name in ("dev", "operator", "gateway", "runtime", "uv", "go", "build", "sbom"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        pins = re.findall(r"^[a-z0-9].*==", text, re.M)
        assert pins, name
        assert text.count("--hash=sha256:") >= len(pins), name
