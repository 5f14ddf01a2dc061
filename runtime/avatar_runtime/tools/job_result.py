"""The result that a container of a Job leaves in its termination message for the operator.

Kubernetes keeps 4096 bytes of the file, in the status of the pod, so that nobody needs the logs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LIMIT_BYTES: Final = 4096
_SENTENCE: Final = 700
_LINE: Final = 240
_FAULTS: Final = 8
_WARNINGS: Final = 3


def succeeded(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a prepared avatar; both are the JSON files in its folder."""
    written = report.get("written") or {}
    return {
        "ok": True,
        "frames": manifest.get("frames", 0),
        "width": manifest.get("width", 0),
        "height": manifest.get("height", 0),
        "content_hash": written.get("content_hash") or manifest.get("content_hash", ""),
        "report": summary(report),
    }


def failed(
    message: str, *, permanent: bool, report: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the result of a failure; `permanent` says that another attempt fails as well."""
    found: dict[str, Any] = {"ok": False, "permanent": permanent, "message": message[:_SENTENCE]}
    return found if report is None else found | {"report": summary(report)}


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the status of an Avatar says of a report on a source."""
    return {
        "verdict": report.get("verdict", ""),
        "sentence": str(report.get("sentence", ""))[:_SENTENCE],
        "frames": report.get("frames", 0),
        "invalid_frames": len(report.get("invalid_frames") or ()),
        "faults": [_fault(fault) for fault in (report.get("faults") or ())[:_FAULTS]],
        "warnings": [str(text)[:_LINE] for text in (report.get("warnings") or ())[:_WARNINGS]],
    }


def encode(result: Mapping[str, Any]) -> bytes:
    """Return a result as JSON of at most `LIMIT_BYTES`; what does not fit is left out, last first.

    The parts of the report are the longest; a message without them says enough.
    """
    reduced = json.loads(json.dumps(result))
    for part in ("warnings", "faults", None):
        encoded = json.dumps(reduced, separators=(",", ":")).encode()
        if len(encoded) <= LIMIT_BYTES:
            return encoded
        if part is None or "report" not in reduced:
            break
        while len(encoded) > LIMIT_BYTES and reduced["report"][part]:
            reduced["report"][part].pop()
            encoded = json.dumps(reduced, separators=(",", ":")).encode()
    reduced.pop("report", None)
    reduced["message"] = str(reduced.get("message", ""))[:_LINE]
    return json.dumps(reduced, separators=(",", ":")).encode()


def write(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write a result to the file, if one is given."""
    if path is not None:
        path.write_bytes(encode(result))


def last_line(lines: Sequence[str], prefix: str) -> str:
    """Return the last line of an output that has text, without the name of the program."""
    found = [line.strip() for line in lines if line.strip()]
    return found[-1].removeprefix(prefix).strip() if found else ""


def _fault(fault: Mapping[str, Any]) -> str:
    text = f"{fault.get('check', '')}: {fault.get('frames', 0)} frames ({fault.get('ranges', '')})"
    return f"{text}: {fault.get('advice', '')}"[:_LINE]
