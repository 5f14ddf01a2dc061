"""A sound file in, a talking video out."""

from __future__ import annotations

import shutil
import wave
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest
from tests.runtime.avatars.spoiling import spoil

from avatar_runtime import errors
from avatar_runtime.avatars import cache, tensor_files
from avatar_runtime.engine.devices.factory import open_device
from avatar_runtime.tools import lipsync

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace


def _wav(path: Path, rate: int, samples: int, silence: int = 0) -> Path:
    noise = np.random.default_rng(0).integers(-6000, 6000, samples, "<i2")
    pcm = np.concatenate([noise, np.zeros(silence, "<i2")])
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.tobytes())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu", "simulated:h100-80gb"])
def test_the_video_is_as_long_as_the_audio_to_one_frame(
    assets: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    audio, out = _wav(tmp_path / "a.wav", 24_000, 10_000), tmp_path / "out" / "a.mp4"

    reported = lipsync.run(
        open_device(name, threads=1),
        assets.model,
        assets.avatars / "anna",
        audio,
        out,
        frames_dir=tmp_path / "frames",
    )

    assert (reported["frames"], reported["fps"], reported["video_ms"]) == (11, 25, 440)
    assert reported["audio_ms"] == pytest.approx(10_000 / 24)
    assert sorted(p.name for p in (tmp_path / "frames").iterdir())[-1] == "000010.png"
    with av.open(str(out)) as container:
        video = [float(f.time) for f in container.decode(video=0) if f.time is not None]
    assert video == pytest.approx([i / 25 for i in range(11)])
    with av.open(str(out)) as container:
        heard = sum(f.samples for f in container.decode(audio=0))
    assert 10_000 <= heard < 10_000 + 2048  # AAC fills its last packet


@pytest.mark.slow
def test_silence_shows_the_source_frames_in_order(
    assets: SimpleNamespace, anna: cache.Avatar, tmp_path: Path
) -> None:
    audio = _wav(tmp_path / "a.wav", 24_000, 10 * 960, silence=12 * 960)

    lipsync.run(
        open_device("cpu", threads=1),
        assets.model,
        assets.avatars / "anna",
        audio,
        tmp_path / "a.mp4",
        frames_dir=tmp_path / "frames",
    )

    files = [str(tmp_path / "frames" / f"{i:06d}.png") for i in range(22)]
    shown = [np.asarray(cv2.imread(file)) for file in files]
    own = [anna.frame(cache.fold(i, anna.manifest.frames)) for i in range(22)]
    apart = [float(np.abs(a.astype(int) - b).mean()) for a, b in zip(shown, own, strict=True)]
    assert max(apart[17:]) < 1.5  # of 255; what one more JPEG costs
    assert min(apart[:12]) > 3 * max(apart[17:])


@pytest.mark.slow
@pytest.mark.parametrize(("fps", "shown_at"), [(50, 25), (20, 20), (12, 25)])
def test_an_avatar_of_another_rate_keeps_its_speed_and_its_label(
    assets: SimpleNamespace, anna: cache.Avatar, tmp_path: Path, fps: int, shown_at: int
) -> None:
    folder = shutil.copytree(assets.avatars / "anna", tmp_path / "anna")
    spoil(folder, fields={"fps": fps, "disclosure": "AI generated"})
    audio = _wav(tmp_path / "a.wav", 24_000, 1, silence=30 * 960)

    reported = lipsync.run(
        open_device("cpu", threads=1),
        assets.model,
        folder,
        audio,
        tmp_path / "a.mp4",
        frames_dir=tmp_path / "frames",
    )

    assert reported["fps"] == shown_at
    count = int(reported["frames"])
    assert reported["video_ms"] == pytest.approx(1000 * count / shown_at)
    last = np.asarray(cv2.imread(str(tmp_path / "frames" / f"{count - 1:06d}.png"))).astype(int)
    own = anna.frame(cache.fold((count - 1) * fps // shown_at, anna.manifest.frames))
    assert np.abs(last - own).mean() < 1.5
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["comment"] == "AI generated"
        picture = next(container.decode(video=0)).to_ndarray(format="bgr24")
    assert picture[-4:, -4:].max() < 80  # the bar of the label


@pytest.mark.parametrize(("rate", "kept"), [(8_000, 8_000), (16_000, 16_000), (44_100, 24_000)])
def test_audio_of_any_rate_is_read(tmp_path: Path, rate: int, kept: int) -> None:
    sound = lipsync.read_audio(_wav(tmp_path / "a.wav", rate, rate))

    assert sound.rate == kept
    assert abs(len(sound.samples) - kept) <= 32


def test_a_file_without_audio_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no sound")

    for name, fault in {
        "a.wav": "no audio can be read: it is not an audio or video file",
        "none.wav": "no audio can be read: it does not exist",
    }.items():
        with pytest.raises(errors.AssetError) as caught:
            lipsync.read_audio(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {fault}"


def test_a_video_without_sound_is_reported_as_such(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="bgr24")
        container.mux(video.encode(picture))
        container.mux(video.encode(None))

    with pytest.raises(errors.AssetError) as caught:
        lipsync.read_audio(path)
    assert str(caught.value) == f"{path}: has no sound"


@pytest.mark.parametrize(
    ("option", "name", "limit"),
    [
        ("--out", "l.txt", "must be a file name that ends in .mp4 or .mov"),
        ("--out", "folder", "must be a file, not a folder"),
        ("--out", "file/l.mp4", "must be in a folder that can be made ("),
        ("--frames-dir", "file", "must be a folder, or a folder that can be made (File exists)"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, option: str, name: str, limit: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    outputs = {"--out": tmp_path / "l.mp4", option: tmp_path / name}
    device, none = open_device("simulated:h100-80gb"), tmp_path / "none"

    # No input exists, so that reading one first is another error.
    with pytest.raises(errors.SettingsError) as caught:
        lipsync.run(
            device, none, none, none, outputs["--out"], frames_dir=outputs.get("--frames-dir")
        )

    assert str(caught.value).startswith(f"{option} is ")
    assert limit in str(caught.value)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("nope", "does not exist"),
        ("README.md", "is a file, an avatar is a folder"),
        ("pictures", "is not an avatar, it has no manifest.json; "),
        ("broken", "manifest.json"),
    ],
)
def test_an_unusable_avatar_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, fault: str
) -> None:
    (tmp_path / "README.md").write_bytes(b"")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_bytes(b"{")
    for tensors in tensor_files.NAMES:
        (tmp_path / "broken" / tensors).write_bytes(b"")
    audio, device = _wav(tmp_path / "a.wav", 24_000, 960), open_device("simulated:h100-80gb")

    with pytest.raises(errors.AssetError) as caught:
        lipsync.run(device, tmp_path / "none", tmp_path / name, audio, tmp_path / "a.mp4")

    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert fault in str(caught.value)
    assert str(caught.value).count(name) == 1
    assert not caplog.records
