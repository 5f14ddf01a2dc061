"""Uploads: one at a time, of a limited size, and without a trace afterwards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from avatar_runtime.errors import Rejection
from avatar_runtime.serving import upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


async def _chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_is_stored_and_removed_afterwards(tmp_path: Path) -> None:
    with upload.reserved(tmp_path) as path:
        assert await upload.store(_chunks(b"ab", b"", b"c"), path) == 3
        assert path.read_bytes() == b"abc"
    assert not path.exists()


async def test_a_second_preparation_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with upload.reserved(tmp_path) as path:
        await upload.store(_chunks(b"first"), path)
        with pytest.raises(Rejection) as refused, upload.reserved(tmp_path):
            pass
        assert refused.value.status == 409
        assert path.read_bytes() == b"first"
    with upload.reserved(tmp_path):
        pass


@pytest.mark.parametrize(("length", "fits"), [(None, True), ("5", True), ("6", False)])
def test_an_announced_length_has_a_limit(
    length: str | None, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "MAX_BYTES", 5)
    if fits:
        upload.check_length(length)
        return
    with pytest.raises(Rejection, match="has 6 bytes, must have at most 5") as refused:
        upload.check_length(length)
    assert refused.value.status == 413


async def test_a_body_that_grows_over_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "MAX_BYTES", 5)
    with pytest.raises(Rejection) as refused:
        await upload.store(_chunks(b"abc", b"def"), tmp_path / "file")
    assert refused.value.status == 413
    assert (tmp_path / "file").read_bytes() == b"abc"


async def test_an_empty_body_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejection, match="is empty") as refused:
        await upload.store(_chunks(), tmp_path / "file")
    assert refused.value.status == 400


async def test_a_stalled_body_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK_S", 0.01)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    with pytest.raises(Rejection) as refused:
        await upload.store(stalled(), tmp_path / "file")
    assert refused.value.status == 408
