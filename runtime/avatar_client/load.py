"""Many concurrent sessions, with a report for each: its frames, late frames and its end.

The sessions do not decode frames and keep no media: one core drives dozens of them.
"""

from __future__ import annotations

import asyncio
import csv
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from avatar_client import errors, session
from avatar_contracts.percentiles import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from avatar_client.sound import Sound
    from avatar_client.traces import Response

_CLOSE_NORMAL: Final = 1000


class Ending(Enum):
    """How one session ended."""

    DONE = "done"  # all utterances were spoken, and the client closed it
    REFUSED = "refused"  # no session started
    CUT = "cut"  # the server or the network ended it
    FAILED = "failed"  # it was connected, but a response failed


@dataclass(frozen=True, slots=True)
class Visit:
    """One planned session."""

    arrival_s: float
    """When it connects, seconds after the start of the load."""
    duration_s: float
    """How long it speaks and pauses, seconds."""


@dataclass(frozen=True, slots=True)
class Script:
    """What every session does."""

    sound: Sound
    utterance_s: float
    """Duration of one utterance; longer audio is cut."""
    pause_s: float
    """Silence between two utterances."""
    chunk_ms: int
    """Audio per message, milliseconds."""
    late_ms: float
    """Delay after which a frame counts as late, milliseconds."""
    realtime: bool = True
    """Whether audio is sent at the rate of a microphone; otherwise an utterance is one burst."""
    settings: Mapping[str, Any] | None = None
    """Fields of a `session.update` at the start; `None` sends no update."""
    resumes: bool = False
    """Whether a session goes on when its connection is lost; otherwise it counts as cut."""


@dataclass(slots=True)
class Report:
    """The result of one session."""

    index: int
    arrival_s: float
    ended: str = ""
    code: str = ""
    """Code of a refusal, close code of a cut, or code of a failure; empty if done."""
    detail: str = ""
    session_id: str = ""
    connect_ms: float | None = None
    duration_s: float = 0.0
    utterances: int = 0
    first_frame_ms: list[float] = field(default_factory=list)
    """For each utterance: time from its first audio sent to its first frame received."""
    frames: int = 0
    frames_due: int = 0
    """Frames that the audio sent requires."""
    frames_dropped: int = 0
    """Frames that the server reported as dropped."""
    frames_missing: int = 0
    """Frames that are due, not received and not reported as dropped."""
    frames_late: int = 0
    gaps: int = 0
    """Number of times that a player would have frozen without a frame."""
    gap_ms_max: float = 0.0
    gap_ms_total: float = 0.0
    audio_ms: float = 0.0
    resumed: int = 0
    """Number of times that it went on after its connection was lost."""
    received_bytes: int = 0
    """Size of all messages of the server."""
    violations: list[str] = field(default_factory=list)


def uniform(sessions: int, arrivals_per_s: float | None, duration_s: float) -> Sequence[Visit]:
    """Return evenly spaced visits of one duration; simultaneous if `arrivals_per_s` is `None`."""
    spacing_s = 0.0 if arrivals_per_s is None else 1 / arrivals_per_s
    return [Visit(index * spacing_s, duration_s) for index in range(sessions)]


def read_visits(path: Path) -> Sequence[Visit]:
    """Return the visits of a CSV file with the header `arrival_s,duration_s`.

    Raises:
        LoadError: a line is not a visit, or there is none.
    """
    visits = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                visits.append(Visit(float(row["arrival_s"]), float(row["duration_s"])))
            except (KeyError, ValueError, TypeError) as error:
                raise errors.LoadError(path.name, f"{row} is not a visit") from error
    if not visits:
        raise errors.LoadError(path.name, "it has no visits")
    return visits


async def run(target: session.Target, visits: Sequence[Visit], script: Script) -> Mapping[str, Any]:
    """Run all visits, and return their reports and the summary."""
    started_at = monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_visit(target, index, visit, script), name=f"visit-{index}")
            for index, visit in enumerate(visits)
        ]
    reports = [task.result() for task in tasks]
    return {
        "summary": {**summarise(reports), "wall_s": round(monotonic() - started_at, 3)},
        "sessions": [asdict(report) for report in reports],
    }


def summarise(reports: Sequence[Report]) -> Mapping[str, Any]:
    """Return the totals over all sessions."""
    firsts = sorted(ms for report in reports for ms in report.first_frame_ms)
    by_ending = {
        ending.value: sum(report.ended == ending.value for report in reports) for ending in Ending
    }
    failed = [(f"{report.ended}:{report.code}", report.detail) for report in reports if report.code]
    return {
        "sessions": len(reports),
        **by_ending,
        "reasons": Counter(reason for reason, _ in failed),
        "first_messages": dict(reversed(failed)),
        "resumed": sum(report.resumed for report in reports),
        "utterances": sum(report.utterances for report in reports),
        "frames": sum(report.frames for report in reports),
        "frames_due": sum(report.frames_due for report in reports),
        "frames_dropped": sum(report.frames_dropped for report in reports),
        "frames_missing": sum(report.frames_missing for report in reports),
        "frames_late": sum(report.frames_late for report in reports),
        "gaps": sum(report.gaps for report in reports),
        "gap_ms_max": max((report.gap_ms_max for report in reports), default=0.0),
        "first_frame_ms": {f"p{q}": percentile(firsts, q) for q in (50, 95, 99)},
        "violations": sum(len(report.violations) for report in reports),
    }


async def _visit(target: session.Target, index: int, visit: Visit, script: Script) -> Report:
    await asyncio.sleep(visit.arrival_s)
    report = Report(index, visit.arrival_s)
    started_at = monotonic()
    try:
        async with session.connect(target, keep_media=False, resumes=script.resumes) as live:
            report.connect_ms = _ms(monotonic() - started_at)
            try:
                await _converse(live, visit, script)
            finally:
                _account(report, live, script)
        _end(report, Ending.DONE)
    except errors.Refused as error:
        _end(report, Ending.REFUSED, error.code, str(error))
    except errors.SessionEnded as error:
        connected = report.connect_ms is not None
        _end(report, Ending.CUT if connected else Ending.REFUSED, str(error.code), str(error))
    except errors.ServerError as error:
        _end(report, Ending.FAILED, error.code, str(error))
    except errors.AnswerTimeout as error:
        _end(report, Ending.FAILED, "unanswered", str(error))
    report.duration_s = round(monotonic() - started_at, 3)
    return report


async def _converse(live: session.Session, visit: Visit, script: Script) -> None:
    """Speak and pause until the end of the visit; the last utterance is cut to end with it."""
    if script.settings is not None:
        await live.update(script.settings)
    end = monotonic() + visit.duration_s
    while (left_s := end - monotonic()) > script.chunk_ms / 1000:
        sound = script.sound.cut(min(script.utterance_s, left_s))
        response = await live.speak(sound, chunk_ms=script.chunk_ms, realtime=script.realtime)
        if response.status != "completed":
            raise errors.ServerError(f"response_{response.status}", "the response did not complete")
        await live.pause(min(script.pause_s, max(0.0, end - monotonic())))


def _account(report: Report, live: session.Session, script: Script) -> None:
    trace = live.trace
    per_frame = int(trace.session["avatar"]["samples_per_frame"])
    report.session_id = trace.session_id
    report.violations = trace.violations
    report.received_bytes = live.received_bytes
    report.resumed = live.resumed
    report.utterances = len(live.utterances)
    if trace.has_video:
        report.frames_due = sum(-(-said.samples // per_frame) for said in live.utterances)
    for said, response in zip(live.utterances, trace.responses.values(), strict=False):
        report.frames += len(response.frames)
        report.frames_dropped += len(response.dropped)
        report.audio_ms += response.audio_ms
        if response.frames:
            report.first_frame_ms.append(_ms(response.frames[0].at - said.started_at))
            measure_timing(report, response, script.late_ms)
    report.frames_missing = report.frames_due - report.frames - report.frames_dropped


def measure_timing(report: Report, response: Response, late_ms: float) -> None:
    """Count late frames, and the gaps of a player that starts with the first frame.

    Lateness is relative to the first frame. A gap shifts the clock of the player, so that one
    stall counts once.
    """
    started_at = response.frames[0].at - response.frames[0].pts_ms / 1000
    shift_ms = 0.0
    for frame in response.frames:
        behind_ms = (frame.at - started_at) * 1000 - frame.pts_ms
        report.frames_late += behind_ms > late_ms
        if behind_ms - shift_ms > late_ms:
            report.gaps += 1
            report.gap_ms_max = max(report.gap_ms_max, round(behind_ms - shift_ms, 1))
            report.gap_ms_total = round(report.gap_ms_total + behind_ms - shift_ms, 1)
            shift_ms = behind_ms


def _end(report: Report, ending: Ending, code: str = "", detail: str = "") -> None:
    report.ended, report.code, report.detail = ending.value, code, detail


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
