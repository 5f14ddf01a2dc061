from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avatar_gateway.keys import API_KEY_FILE, KEEP_S, APIKeys, KeyCache

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ("first-key-0123456789", "other-key-0123456789", "third-key-0123456789")


def test_keys_are_read_when_their_file_changes_and_not_before(tmp_path: Path) -> None:
    now, reads = [0.0], list[float]()
    keys = APIKeys(str(tmp_path), "")

    def read() -> tuple[str, ...]:
        reads.append(now[0])
        return keys.read()

    cache = KeyCache(str(tmp_path), read, lambda: now[0])
    assert cache() == ()
    (tmp_path / API_KEY_FILE).write_text(KEYS[0])
    os.utime(tmp_path / API_KEY_FILE, (1, 1))
    assert cache() == cache() == (KEYS[0],)
    assert len(reads) == 2
    (tmp_path / API_KEY_FILE).write_text(KEYS[1])
    assert cache() == (KEYS[1],)
    (tmp_path / f"{API_KEY_FILE}-next").write_text(KEYS[2])
    assert cache() == (KEYS[1], KEYS[2])
    (tmp_path / f"{API_KEY_FILE}-next").unlink()
    assert cache() == (KEYS[1],)
    assert len(reads) == 5


def test_a_change_that_cannot_be_seen_is_missed_for_a_second(tmp_path: Path) -> None:
    now, file = [0.0], tmp_path / API_KEY_FILE
    cache = KeyCache(str(tmp_path), APIKeys(str(tmp_path), "").read, lambda: now[0])
    for key in KEYS[:2]:
        file.write_text(key)
        os.utime(file, (1, 1))
        found = cache()
    assert found == (KEYS[0],)
    now[0] = KEEP_S
    assert cache() == (KEYS[1],)
