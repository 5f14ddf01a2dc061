"""Which errors another attempt cannot mend."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import av
import av.error
import pytest
from tests.runtime.preparation import clips

from avatar_contracts.environment import Fault
from avatar_runtime import errors
from avatar_runtime.preparation import sources
from avatar_runtime.preparation.sources import container, files


def wrapped(cause: BaseException, *, hidden: bool = False) -> errors.AvatarRuntimeError:
    try:
        try:
            raise cause
        except type(cause) as caught:
            if hidden:
                raise errors.SourceError("a.mp4", "cannot be read") from None
            raise errors.AssetError("model", "is unreadable") from caught
    except errors.AvatarRuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (errors.AssetError("a", "is wrong"), True),
        (errors.AssetError("a", "is busy", permanent=False), False),
        (errors.SourceError("a", "is empty"), True),
        (errors.SettingsError(Fault("A", "x", "must be y")), True),
        (errors.FetchError("u", "is another"), True),
        (errors.FetchFailed("u", "no response"), False),
        (errors.EngineError("lost"), False),
        (FileNotFoundError(errno.ENOENT, "none"), True),
        (OSError(errno.ESTALE, "stale"), False),
        (wrapped(PermissionError(errno.EACCES, "no")), True),
        (wrapped(OSError(errno.EIO, "disk")), False),
        (wrapped(OSError(errno.EIO, "disk"), hidden=True), False),
        (wrapped(ValueError("not JSON")), True),
        (wrapped(MemoryError()), False),
        (wrapped(errors.SourceError("a", "is slow", permanent=False)), False),
    ],
)
def test_errors_know_whether_they_pass(error: BaseException, permanent: bool) -> None:
    assert errors.is_permanent(error) is permanent


@pytest.mark.parametrize(
    ("cause", "permanent"),
    [
        (files.TooSlow(), False),
        (OSError(errno.EIO, "disk"), False),
        (ValueError("broken"), True),
        (av.error.OSError(errno.EIO, "Input/output error"), True),
        (av.error.MemoryError(errno.ENOMEM, "too large"), True),
    ],
)
def test_a_damaged_file_stays_damaged_and_a_busy_disk_does_not(
    cause: Exception, permanent: bool
) -> None:
    with pytest.raises(errors.SourceError) as caught, container.translated(Path("a.mp4")):
        raise cause
    assert errors.is_permanent(caught.value) is permanent


def test_a_disk_that_fails_in_the_middle_does_not_cut_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coding = clips.Coding(container="avi", codec="mpeg4", options={})
    path = clips.write(tmp_path / "a.avi", clips.numbered(100, 640, 480), coding)
    armed: list[bool] = []
    real, pick = files.GuardedFile.read, container.pick_stream

    def read(file: files.GuardedFile, size: int) -> bytes:
        if armed == [True]:
            armed.append(False)  # once, as a network volume fails
            raise OSError(errno.EIO, "Input/output error")
        return real(file, size)

    def picked(path: Path, opened: Any) -> Any:
        if not armed:
            armed.append(True)  # the file is open, its packets are read next
        return pick(path, opened)

    monkeypatch.setattr(files.GuardedFile, "read", read)
    monkeypatch.setattr(container, "pick_stream", picked)
    with pytest.raises(errors.SourceError) as caught:
        sources.open(path)
    assert not errors.is_permanent(caught.value)
