"""Command line of the client: `talk`, `say` and `load`."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_client import errors, load, record, session, sound, talk
from avatar_client.options import Options
from avatar_contracts import media_files
from avatar_contracts.environment import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY_VARIABLE = "AVATAR_API_KEY"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 only if all responses are complete and correct."""
    options = _parser().parse_args(arguments)
    target = session.Target(
        url=options.url,
        model=options.model,
        key=options.key or os.environ.get(KEY_VARIABLE, ""),
        avatar=options.avatar,
        wait_ms=options.wait_ms,
    )
    settings = _settings(options)
    try:
        _check_outputs(options)
        if options.command in ("talk", "say"):
            run = _talk if options.command == "talk" else _say
            result = asyncio.run(run(target, options, settings))
            succeeded = bool(result["ok"])
            shown = result
            _print_warnings(result)
        else:
            result = asyncio.run(_load(target, options, settings))
            shown = result["summary"]
            faults = shown["violations"] + shown["frames_missing"]
            succeeded = shown["done"] == shown["sessions"] and not faults
    except (errors.AvatarClientError, OSError) as error:
        print(f"avatar-client: {error}", file=sys.stderr)
        return 2 if isinstance(error, errors.SettingsError) else 1
    print(json.dumps(shown, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if succeeded else 1


def _check_outputs(options: argparse.Namespace) -> None:
    """Check before the session that its results can be written.

    Raises:
        SettingsError: a file cannot be written.
    """
    outputs: list[tuple[str, Path | None, Sequence[str]]] = [("--json", options.json, ())]
    if options.command in ("talk", "say"):
        outputs += [
            ("--out", options.out, media_files.VIDEO_SUFFIXES),
            ("--sheet", options.sheet, record.SHEET_SUFFIXES),
        ]
    checked = (
        media_files.output_fault(option, path, suffixes)
        for option, path, suffixes in outputs
        if path is not None
    )
    faults = [fault for fault in checked if fault is not None]
    records = [option for option, path, _ in outputs if path is not None and option != "--json"]
    if records and options.video == "fmp4" and options.transport == "binary":
        expected = "json, since binary messages do not say where their frames are"
        faults.append(Fault("--transport", "binary", expected))
    if records and options.video == "none":
        expected = f"jpeg, h264 or fmp4, since {records[0]} shows frames"
        faults.append(Fault("--video", "none", expected))
    if faults:
        raise errors.SettingsError(*faults)


def _print_warnings(result: Mapping[str, Any]) -> None:
    """Print the warnings of this client; those of the server are in the result."""
    for warning in result["warnings"]:
        if isinstance(warning, dict) and warning.get("code") == talk.FRAMES_DROPPED:
            print(f"avatar-client: warning: {warning['message']}", file=sys.stderr)


def _settings(options: argparse.Namespace) -> Mapping[str, Any] | None:
    """Return the fields of the `session.update`, or `None` if the options need no update."""
    return Options(
        video=options.video or ("jpeg" if options.update else None),
        region=options.region,
        background=options.background,
        resolution=options.resolution,
        transport=options.transport,
        flow=options.flow,
        window_ms=options.window_ms,
        overrun="pause" if options.every_frame else None,
    ).fields()


async def _talk(
    target: session.Target, options: argparse.Namespace, settings: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    return await talk.run(
        target,
        talk.Request(
            audio=options.audio,
            out=options.out,
            sheet=options.sheet,
            chunk_ms=options.chunk_ms,
            realtime=not options.burst,
            settings=settings,
        ),
    )


async def _say(
    target: session.Target, options: argparse.Namespace, settings: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    return await talk.say(target, talk.Text(options.text, options.out, options.sheet, settings))


async def _load(
    target: session.Target, options: argparse.Namespace, settings: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    if options.visits is not None:
        visits = load.read_visits(options.visits)
    else:
        visits = load.uniform(options.sessions, options.arrivals_per_s, options.duration_s)
    speech = sound.read(options.audio)
    script = load.Script(
        sound=speech,
        utterance_s=options.utterance_s or speech.duration_s,
        pause_s=options.pause_s,
        chunk_ms=options.chunk_ms,
        late_ms=options.late_ms,
        realtime=not options.burst,
        settings=settings,
        resumes=options.resume,
    )
    return await load.run(target, visits, script)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="avatar-client", description=__doc__)
    version = importlib.metadata.version("avatar-service")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--url", required=True, help="URL of a gateway or a runtime, e.g. ws://HOST:8080"
    )
    common.add_argument("--model", default="", help="AvatarService, as NAMESPACE/NAME")
    common.add_argument("--key", default="", help=f"API key; prefer the variable {KEY_VARIABLE}")
    common.add_argument("--avatar", help="avatar; default: the first of the service")
    common.add_argument("--wait-ms", type=int, help="maximum wait for a free slot")
    common.add_argument("--update", action="store_true", help="send a session.update first")
    common.add_argument(
        "--video",
        choices=("jpeg", "h264", "fmp4", "none"),
        help="form of the video; the server's default is jpeg",
    )
    common.add_argument(
        "--region",
        choices=("full", "patch"),
        help="patch sends only what differs from the avatar in silence; default: full",
    )
    common.add_argument(
        "--background",
        help="colour behind an avatar with alpha, #RRGGBB; alpha: files show it over white",
    )
    common.add_argument(
        "--resolution",
        type=_size,
        metavar="WxH",
        help="size of the video, such as 256x256; default: that of the avatar",
    )
    common.add_argument(
        "--transport", choices=("json", "binary"), help="how media travels; default: json"
    )
    common.add_argument(
        "--flow", choices=("clock", "ack"), help="what says how much was played; default: clock"
    )
    common.add_argument(
        "--window-ms",
        type=_positive_int,
        help="how far the server may be ahead of what was played, 200 to 10000; default: 1000",
    )
    common.add_argument(
        "--every-frame",
        action="store_true",
        help="let a slow server pause instead of dropping frames",
    )
    common.add_argument("--json", type=Path, help="write the complete result to this file")

    audio = argparse.ArgumentParser(add_help=False)
    audio.add_argument("--audio", type=Path, required=True, help="audio file to speak")
    audio.add_argument("--chunk-ms", type=_positive_int, default=40, help="audio per message")
    audio.add_argument("--burst", action="store_true", help="send an utterance without pacing")
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument("--out", type=Path, help="write the video to this MP4 file")
    files.add_argument("--sheet", type=Path, help="write a contact sheet to this PNG file")

    commands.add_parser("talk", parents=[common, audio, files], help="record one utterance")
    say = commands.add_parser(
        "say", parents=[common, files], help="record one text; the service is in mode speech"
    )
    say.add_argument("text", help="what the avatar says, or answers if the service has a chat")

    many = commands.add_parser("load", parents=[common, audio], help="measure many sessions")
    many.add_argument("--sessions", type=_positive_int, default=1)
    many.add_argument("--arrivals-per-s", type=_positive, help="default: all at the same time")
    many.add_argument("--duration-s", type=_positive, default=10.0, help="duration of a session")
    many.add_argument("--visits", type=Path, help="CSV file arrival_s,duration_s; replaces these")
    many.add_argument("--utterance-s", type=_positive, help="default: the whole file")
    many.add_argument("--pause-s", type=_positive, default=0.5, help="silence between utterances")
    many.add_argument("--late-ms", type=_positive, default=80.0, help="delay of a late frame")
    many.add_argument(
        "--resume",
        action="store_true",
        help="continue a session whose connection is lost; default: it counts as cut",
    )
    return parser


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.partition("x")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text} is not a width and a height, such as 256x256")
    return _positive_int(width), _positive_int(height)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
