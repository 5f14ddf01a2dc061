"""What several packages need is defined once, in `avatar_contracts`."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "operator", ROOT / "runtime")
CONTRACTS = Path("runtime/avatar_contracts")

FILES = {"index.html": CONTRACTS / "page", "gpu_profiles.json": CONTRACTS}
"""Each packaged file by its name, with the only folder that holds one."""


@pytest.mark.parametrize(("name", "folder"), FILES.items(), ids=FILES)
def test_file_exists_once(name: str, folder: Path) -> None:
    found = [path.relative_to(ROOT) for root in SOURCES for path in root.rglob(name)]
    assert found == [folder / name]
