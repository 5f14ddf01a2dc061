"""The report of a preparation: a JSON document, and the same as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.preparation import meter as meters
from avatar_runtime.preparation import quality

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_runtime.preparation.quality import Verdict

SCHEMA: Final = 1
_MB: Final = 1_000_000
_MAX_FRAMES: Final = 1000  # frame numbers of one fault in the JSON document


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the report says besides the verdict."""

    name: str
    source: Mapping[str, Any]
    """Facts of the source: `name`, `width`, `height`, `fps`, `frames`, `source_seconds`, ..."""
    options: Mapping[str, Any]
    tools: Mapping[str, str]
    warnings: Sequence[str] = ()
    """What the user must know before the avatar is used."""
    notes: Sequence[str] = ()
    """What was changed or ignored."""
    timings_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Wall and processor milliseconds a frame by stage, of this run."""
    idle_frames: Sequence[int] = ()
    """Frames whose idle picture was drawn."""
    invalid_frames: Sequence[int] = ()
    written: Mapping[str, Any] | None = None
    """`path`, `bytes`, `content_hash`; `None` if the clip was refused."""


def document(verdict: Verdict, context: Context) -> dict[str, Any]:
    """Return the report as a JSON document (docs/avatars.md)."""
    return {
        "schema": SCHEMA,
        "name": context.name,
        "verdict": verdict.grade.value,
        "sentence": _sentence(verdict, context.warnings),
        "frames": verdict.total,
        "invalid_frames": list(context.invalid_frames[:_MAX_FRAMES]),
        "faults": [
            {
                "check": finding.check.name,
                "text": finding.text,
                "frames": len(finding.frames),
                "share": round(finding.share, 4),
                "limit": finding.check.limit,
                "refuses": finding.refuses,
                "ranges": quality.ranges(finding.frames),
                "frame_numbers": list(finding.frames[:_MAX_FRAMES]),
                "advice": finding.check.advice,
            }
            for finding in verdict.findings
        ],
        "mouth_open": {
            "frames": len(verdict.open_mouths),
            "share": round(len(verdict.open_mouths) / verdict.total, 4),
            "ranges": quality.ranges(verdict.open_mouths),
            "idle_frames": len(context.idle_frames),
            "idle_ranges": quality.ranges(context.idle_frames),
        },
        "source": dict(context.source),
        "options": dict(context.options),
        "tools": dict(context.tools),
        "warnings": list(context.warnings),
        "notes": list(context.notes),
        "timings_ms": {name: dict(times) for name, times in context.timings_ms.items()},
        "without_model_cpu_ms": meters.without_model_ms(context.timings_ms),
        "written": None if context.written is None else dict(context.written),
    }


def text(report: Mapping[str, Any]) -> str:
    """Return a document of `document` as text for a terminal."""
    lines = [f"{report['name']}: {report['sentence']}", *_source(report)]
    # The sentence has the first one, unless the clip is refused.
    lines += [f"warning: {w}" for w in report["warnings"] if w not in report["sentence"]]
    for fault in report["faults"]:
        lines.append(f"  {fault['check']}: {fault['text']}: {fault['ranges']}")
        lines.append(f"    {fault['advice']}")
    lines += [*_mouth(report), *(f"  note: {note}" for note in report["notes"])]
    if report["timings_ms"]:
        stages = ", ".join(f"{name} {t['cpu']:g}" for name, t in report["timings_ms"].items())
        total = report["without_model_cpu_ms"]
        lines.append(f"  time: {total:g} ms of processor time a frame besides the model ({stages})")
    if written := report["written"]:
        size = f"{written['bytes'] / _MB:.1f} MB"
        lines.append(
            f"  written: {written['path']}, {size}, content hash {written['content_hash']}"
        )
    return "\n".join(lines)


def _source(report: Mapping[str, Any]) -> list[str]:
    source = report["source"]
    size = f"{source['width']}x{source['height']}"
    frames = f"{report['frames']} {'frame' if report['frames'] == 1 else 'frames'}"
    return [f"  source: {source['name']}, {source['kind']}; prepared: {frames}, {size}"]


def _sentence(verdict: Verdict, warnings: Sequence[str]) -> str:
    """Return the sentence of the verdict; a good clip of an unsuitable model is no good avatar."""
    if not warnings or verdict.grade is quality.Grade.REFUSED:
        return verdict.sentence
    return f"{verdict.sentence.removesuffix('.')}; but {warnings[0]}."


def _mouth(report: Mapping[str, Any]) -> list[str]:
    mouth = report["mouth_open"]
    if not mouth["frames"] and not mouth["idle_frames"]:
        return []
    opened = f"open in {quality.counted(mouth['frames'], report['frames'])}"
    drawn = mouth["idle_frames"]
    idle = f"; {drawn} {'picture' if drawn == 1 else 'pictures'} for silence drawn with it closed"
    if drawn > mouth["frames"]:
        idle += ", also of frames beside the open ones, so that the change is gradual"
    return [f"  mouth: {opened}{idle if drawn else ''}"]
