from __future__ import annotations

import asyncio
import json
import wave
from typing import TYPE_CHECKING, Any

import pytest

from avatar_client import __main__ as command
from avatar_client import errors
from avatar_contracts.environment import Fault

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Return a WAV file of 200 ms."""
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(bytes(range(240)) * 40)
    return path


async def test_talk_writes_video_sheet_and_figures(
    avatar: Any, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet, figures = tmp_path / "a.mp4", tmp_path / "a.png", tmp_path / "a.json"
    status = await asyncio.to_thread(
        command.main,
        f"talk --url {avatar.url} --model acme/c --audio {speech} "
        f"--update --out {out} --sheet {sheet} --json {figures}".split(),
    )
    assert status == 0
    report = json.loads(figures.read_text())
    assert json.loads(capsys.readouterr().out) == report
    assert report["ok"]
    assert (report["frames"], report["fps"]) == (5, 25.0)
    assert report["max_pts_error_ms"] <= 0.02
    assert report["audio_ms"] == report["video_ms"] == 200
    assert report["first_frame_ms"] > 0
    assert report["realtime_factor"] > 0
    assert out.stat().st_size > 1000
    assert sheet.stat().st_size > 1000


async def test_a_broken_protocol_fails_the_talk(avatar: Any, speech: Path) -> None:
    def shift(message: dict[str, Any]) -> list[dict[str, Any]]:
        if message["type"] == "response.video.delta":
            message["pts_ms"] += 1
        return [message]

    avatar.tamper = shift
    arguments = ["talk", "--url", avatar.url, "--audio", str(speech), "--burst"]
    assert await asyncio.to_thread(command.main, arguments) == 1


async def test_load_prints_the_summary_and_writes_every_session(
    avatar: Any, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "load.json"
    status = await asyncio.to_thread(
        command.main,
        f"load --url {avatar.url} --model acme/c --audio {speech} "
        f"--sessions 2 --arrivals-per-s 50 --duration-s 0.3 --json {path}".split(),
    )
    assert status == 0
    assert json.loads(capsys.readouterr().out)["done"] == 2
    assert len(json.loads(path.read_text())["sessions"]) == 2


async def test_a_load_with_missing_frames_fails(avatar: Any, speech: Path) -> None:
    avatar.tamper = lambda message: [] if message.get("frame_index") == 1 else [message]
    arguments = f"load --url {avatar.url} --duration-s 0.2 --audio {speech}".split()
    assert await asyncio.to_thread(command.main, arguments) == 1


def test_errors_are_printed_as_one_sentence(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["talk", "--url", "ws://127.0.0.1:1"]
    assert command.main([*common, "--audio", str(speech)]) == 1
    assert "connect_failed" in capsys.readouterr().err
    assert command.main([*common, "--audio", str(tmp_path / "none.wav")]) == 1
    missing = tmp_path / "none.wav"
    sentence = f"avatar-client: cannot read audio from {missing}: it does not exist\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(
    ("option", "name"), [("--out", "talk.txt"), ("--sheet", "a.txt"), ("--json", "none/a.json")]
)
async def test_an_output_that_cannot_be_written_is_refused_before_the_session(
    avatar: Any,
    speech: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
) -> None:
    arguments = f"talk --url {avatar.url} --audio {speech} {option} {tmp_path / name}".split()

    assert await asyncio.to_thread(command.main, arguments) == 2

    assert not avatar.requests
    shown = capsys.readouterr().err
    assert shown.startswith(f"avatar-client: {option} is '/")
    assert shown.count("\n") == 1


async def test_dropped_frames_are_a_warning_and_no_failure(
    avatar: Any, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drop(message: dict[str, Any]) -> list[dict[str, Any]]:
        if message.get("frame_index") == 1:
            report = {"type": "response.video.dropped", "seq": message["seq"], "epoch": 1}
            indices = {"first_frame_index": 1, "last_frame_index": 1}
            return [{**report, "response_id": message["response_id"], **indices}]
        if message["type"] == "response.video.done":
            message |= {"frames": 4, "dropped": 1}
        return [message]

    avatar.tamper = drop
    arguments = ["talk", "--url", avatar.url, "--audio", str(speech), "--burst"]
    assert await asyncio.to_thread(command.main, arguments) == 0

    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["ok"]
    (warning,) = report["warnings"]
    assert warning["code"] == "frames_dropped"
    assert warning["message"].startswith("1 of 5 frames were dropped")
    assert printed.err == f"avatar-client: warning: {warning['message']}\n"


@pytest.mark.parametrize("wrong", [["--sessions", "0"], ["--duration-s", "-1"]])
def test_invalid_numbers_are_rejected(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["load", "--url", "h:1", "--audio", "a.wav", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_every_error_builds_a_sentence_from_its_data() -> None:
    made = [
        errors.AudioFileError("a.wav", "x"),
        errors.LoadError("a.csv", "x"),
        errors.RecordingError("a.mp4", "x"),
        errors.SettingsError(Fault("--out", "a.txt", "x")),
        errors.Refused(None, "c", "m", None),
        errors.SessionEnded(1006, ""),
        errors.ServerError("c", "m"),
        errors.AnswerTimeout("e", 1.0),
    ]
    assert {type(error) for error in made} == set(errors.AvatarClientError.__subclasses__())
    drawn = errors.__doc__ or ""
    for error in made:
        assert type(error).__name__ in drawn
        assert str(error)
        assert not str(error).endswith(".")


def test_a_file_is_not_recorded_from_binary_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--url", "h:1", "--audio", "a.wav", "--video", "fmp4", "--transport", "binary"]
    assert command.main(["talk", *options, "--out", str(tmp_path / "a.mp4")]) == 2
    assert "--transport" in (told := capsys.readouterr().err)
    assert "must be json, since" in told


@pytest.mark.parametrize("option", ["--out a.mp4", "--sheet a.png"])
async def test_a_file_of_no_video_is_refused_before_the_session(
    avatar: Any, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    name, _, file = option.partition(" ")
    arguments = ["talk", "--url", avatar.url, "--audio", str(speech), "--video", "none"]
    assert await asyncio.to_thread(command.main, [*arguments, name, str(tmp_path / file)]) == 2
    assert f"--video is 'none', must be jpeg, h264 or fmp4, since {name}" in capsys.readouterr().err
    assert avatar.requests == []
    assert await asyncio.to_thread(command.main, ["talk", *arguments[1:-1], "jpeg"]) == 0


async def test_a_service_that_says_no_text_is_named(
    avatar: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(message: dict[str, Any]) -> list[dict[str, Any]]:
        if message["type"] != "error" or "conversation" not in message["error"]["message"]:
            return [message]
        warning = {"code": "unsupported_in_mode", "message": "it has no effect in mode drive"}
        return [{**message, "type": "warning", "warning": warning}]

    avatar.tamper = warn
    assert await asyncio.to_thread(command.main, ["say", "--url", avatar.url, "Hello."]) == 1
    assert "unsupported_in_mode: this service does not say text" in capsys.readouterr().err
