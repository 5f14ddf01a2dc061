"""How well turns are found in speech and noise, and what that costs.

The detector and the rules of turns are those of the product, with OpenAI's default settings. An
utterance without a turn is missed; a turn that starts outside an utterance is false. A start is
late over 200 ms after the speech, a stop over 200 ms after the 500 ms of silence that end a turn.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime.audio.voice_activity import SileroDetector
from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.protocol.turn_detection import (
    WINDOW_MS,
    Boundary,
    SpeechSegmenter,
    TurnDetection,
)
from localcluster import speech_in_noise
from localcluster.bench import record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from localcluster.speech_in_noise import Floats, Utterance

SEED: Final = 7
RATIOS_DB: Final = (20, 10)
_LATE_S: Final = 0.2
_EARLY_S: Final = 0.1
"""A turn that starts this much before the speech, or more, has another cause."""
_CHUNK_MS: Final = 20
_DETECTION: Final = TurnDetection()


@dataclass(slots=True)
class Row:
    """The errors in one kind of speech and one noise."""

    noise: str
    ratio_db: int | None
    speech: str
    utterances: int = 0
    missed: int = 0
    false: int = 0
    late_start: int = 0
    late_stop: int = 0
    split: int = 0
    """Utterances in which more than one turn starts."""
    audio_s: float = 0.0
    cpu_s: float = 0.0

    def describe(self) -> dict[str, Any]:
        """Return the row for the record."""
        fields = asdict(self)
        cpu_s, audio_s = fields.pop("cpu_s"), fields.pop("audio_s")
        minutes = round(audio_s / 60, 1)
        return {
            **fields,
            "minutes": minutes,
            "cpu_percent_of_a_core": round(100 * cpu_s / audio_s, 3),
        }


def main() -> int:
    """Measure every kind of speech in every noise, print a table and write the record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.turn_detection", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--recordings", type=Path, default=speech_in_noise.RECORDINGS)
    parser.add_argument("--every", type=int, default=1, help="measure each n-th utterance")
    options = parser.parse_args()
    spoken = speech_in_noise.utterances(options.recordings)[:: options.every]
    rows = [row for noise, ratio_db in _conditions() for row in measure(spoken, noise, ratio_db)]
    print(table(rows))
    found = {"rows": [row.describe() for row in rows]}
    record.write(options.out, SEED, "one utterance", found)
    return 0


def measure(spoken: Sequence[Utterance], noise: str, ratio_db: int | None) -> list[Row]:
    """Return the errors by kind of speech; `ratio_db` is that of speech and noise, in dB."""
    random = np.random.default_rng(SEED)
    rows: dict[str, Row] = {}
    turns_of(spoken[0].sound)  # warm up
    for utterance in spoken:
        row = rows.setdefault(utterance.kind, Row(noise, ratio_db, utterance.kind))
        sound = utterance.sound
        if ratio_db is not None:
            made = speech_in_noise.NOISES[noise](len(sound), random)
            sound = speech_in_noise.add_noise(sound, made, ratio_db)
        started = time.thread_time()
        turns = turns_of(sound)
        row.cpu_s += time.thread_time() - started
        row.audio_s += len(sound) / speech_in_noise.RATE
        judge(row, utterance, turns)
    return list(rows.values())


def turns_of(sound: Floats) -> list[tuple[float, float]]:
    """Return when each turn was reported to start and to stop, seconds."""
    detector, segmenter = SileroDetector(PCM_24K), SpeechSegmenter()
    data = speech_in_noise.pcm(sound)
    size = speech_in_noise.RATE * _CHUNK_MS // 1000 * 2
    turns: list[tuple[float, float]] = []
    for at in range(0, len(data), size):
        for probability in detector.append(data[at : at + size]):
            now = segmenter.windows * WINDOW_MS / 1000 + WINDOW_MS / 1000
            match segmenter.push(probability, _DETECTION):
                case Boundary.START:
                    turns.append((now, float("inf")))
                case Boundary.STOP:
                    turns[-1] = (turns[-1][0], now)
    return turns


def judge(row: Row, utterance: Utterance, turns: Sequence[tuple[float, float]]) -> None:
    """Count the errors in one utterance."""
    first, last = utterance.start_s - _EARLY_S, utterance.end_s + _LATE_S
    own = [turn for turn in turns if first <= turn[0] <= last]
    row.utterances += 1
    row.false += len(turns) - len(own)
    row.split += len(own) > 1
    if not own:
        row.missed += 1
        return
    row.late_start += own[0][0] > utterance.start_s + _LATE_S
    silence_s = _DETECTION.silence_duration_ms / 1000
    row.late_stop += own[-1][1] > utterance.end_s + silence_s + _LATE_S


def table(rows: Sequence[Row]) -> str:
    """Return the errors by kind of noise, as in docs/decisions/0037."""
    groups: dict[str, Row] = defaultdict(lambda: Row("", None, ""))
    for row in rows:
        kind = "steady" if row.noise in speech_in_noise.STEADY else "unsteady"
        name = "none" if row.ratio_db is None else f"{kind}, {row.ratio_db} dB"
        for counted in (f"{name} ({row.speech})", name):
            group = groups[counted]
            for field in ("utterances", "missed", "false", "late_start", "late_stop", "split"):
                setattr(group, field, getattr(group, field) + getattr(row, field))
            group.audio_s += row.audio_s
            group.cpu_s += row.cpu_s
    lines = [
        "| noise | utterances | missed | false | late start | late stop | split | CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, group in groups.items():
        counts = (
            *(group.utterances, group.missed, group.false),
            *(group.late_start, group.late_stop, group.split),
        )
        cells = " | ".join(map(str, counts))
        lines.append(f"| {name} | {cells} | {100 * group.cpu_s / group.audio_s:.2f} % |")
    return "\n".join(lines)


def _conditions() -> Iterator[tuple[str, int | None]]:
    yield "none", None
    for ratio_db in RATIOS_DB:
        for noise in speech_in_noise.NOISES:
            yield noise, ratio_db


if __name__ == "__main__":
    raise SystemExit(main())
