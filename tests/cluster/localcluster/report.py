"""The report of the demo: the steps with their times, and the JSON document of the run."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Keys that commands outside this repository read.
KEYS = (
    "ok",
    "setup_s",
    "control_plane_start_s",
    "apply_to_ready_s",
    "first_frame_ms",
    "frames",
    "fps",
    "realtime_factor",
    "audio_ms",
    "video_ms",
    "max_pts_error_ms",
    "gpu_class",
    "batch_size",
    "pod",
    "steps",
)


@dataclass(slots=True)
class Step:
    """One step of the demo as it appears in the report."""

    name: str
    seconds: float
    ok: bool


@dataclass(slots=True)
class Report:
    """Collects steps and figures, prints each step when it ends, and writes the document."""

    steps: list[Step] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the block; a failure is recorded and raised again."""
        started = time.monotonic()
        print(f"  {name} …", flush=True)
        ok = False
        try:
            yield
            ok = True
        finally:
            seconds = time.monotonic() - started
            self.steps.append(Step(name, round(seconds, 3), ok))
            print(f"{'✓' if ok else '✗'} {name:<58} {seconds:6.1f} s", flush=True)

    def document(self) -> Mapping[str, object]:
        """Return the report. Missing figures are null, and then `ok` is false."""
        steps = [{"name": s.name, "seconds": s.seconds, "ok": s.ok} for s in self.steps]
        known = {**dict.fromkeys(KEYS), **self.figures, "steps": steps}
        reached = all(known[key] is not None for key in KEYS if key != "ok")
        known["ok"] = reached and all(s.ok for s in self.steps)
        return known

    def write(self, path: Path) -> None:
        """Write the document as indented JSON."""
        path.write_text(json.dumps(self.document(), indent=2) + "\n")
