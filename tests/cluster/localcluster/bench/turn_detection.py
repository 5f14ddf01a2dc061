"""How well turns are found in speech and noise, and what that costs.

The rules of turns are those of the product, with OpenAI's default settings but for the threshold.
What is chosen (where speech ends in a recording, the threshold of each detector) is chosen with
the voices of the calibration alone, by the fewest errors. The table shows the other voices.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime.protocol.turn_detection import TurnDetection
from localcluster import detection_cost, speech_in_noise, turn_errors, voice_detectors
from localcluster.bench import record
from localcluster.turn_errors import Series

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from localcluster.speech_in_noise import Recording
    from localcluster.voice_detectors import Detector

SEED: Final = 7
RATIOS_DB: Final = (20, 10)
DEFAULT: Final = TurnDetection()
_COSTED: Final = 24
"""Utterances whose cost in a session is measured."""
_COLUMNS: Final = ("utterances", "missed", "false", "late_start", "late_stop", "split")


def main() -> int:
    """Calibrate, measure the voices of the report, print a table and write the record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.turn_detection", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--recordings", type=Path, default=speech_in_noise.RECORDINGS)
    parser.add_argument("--every", type=int, default=1, help="measure each n-th utterance")
    options = parser.parse_args()
    spoken = speech_in_noise.speech(options.recordings)[:: options.every]
    detectors = voice_detectors.available()
    first = [each for each in spoken if each.calibrates]
    speech_db, by_level = choose_level(detectors, first)
    chosen, by_threshold = choose_thresholds(detectors, measure(detectors, first, speech_db))
    second = [each for each in spoken if not each.calibrates]
    found = measure(detectors, second, speech_db)
    rows = list(describe(found, chosen))
    cost = detection_cost.measure(
        [speech_in_noise.pcm(speech_in_noise.utterance(s, speech_db).sound) for s in second][
            :_COSTED
        ]
    )
    print(table(rows))
    print(cost.describe())
    results = {
        "calibration": {
            "voices": sorted({each.voice for each in first}),
            "utterances": len(first),
            "speech_db": {"chosen": speech_db, "errors": by_level},
            "thresholds": {"chosen": chosen, "errors": by_threshold},
        },
        "report": {"voices": sorted({each.voice for each in second}), "rows": rows},
        "session_cpu": cost.describe(),
    }
    record.write(options.out, SEED, "one utterance", results)
    return 0


def measure(
    detectors: Sequence[Detector], spoken: Sequence[Recording], speech_db: float
) -> list[Series]:
    """Return what each detector hears in each utterance, alone and in each noise."""
    found: list[Series] = []
    for noise, ratio_db in conditions():
        found += hear(detectors, spoken, speech_db, noise, ratio_db)
        print(f"{noise} {ratio_db}: {len(spoken)} utterances", flush=True)
    return found


def hear(
    detectors: Sequence[Detector],
    spoken: Sequence[Recording],
    speech_db: float,
    noise: str,
    ratio_db: int | None,
) -> Iterator[Series]:
    """Yield what each detector hears in each utterance; `ratio_db` is speech over noise."""
    random = np.random.default_rng(SEED)
    for recording in spoken:
        utterance = speech_in_noise.utterance(recording, speech_db)
        sound = utterance.sound
        if ratio_db is not None:
            made = speech_in_noise.NOISES[noise](len(sound), random)
            sound = speech_in_noise.add_noise(sound, made, ratio_db)
        pcm, audio_s = speech_in_noise.pcm(sound), len(sound) / speech_in_noise.RATE
        for detector in detectors:
            started = time.thread_time()
            rates = detector.rates(pcm)
            yield Series(
                detector.name,
                utterance.kind,
                noise,
                ratio_db,
                utterance.start_s,
                utterance.end_s,
                rates,
                audio_s,
                time.thread_time() - started,
            )


def choose_level(
    detectors: Sequence[Detector], spoken: Sequence[Recording]
) -> tuple[float, Mapping[str, int]]:
    """Return the level from which on a block counts as speech, and the errors with each level.

    It is the one with which all detectors together make the fewest errors without noise.
    """
    errors = {
        level: sum(
            turn_errors.errors_in(each, DEFAULT).total
            for each in hear(detectors, spoken, level, "none", None)
        )
        for level in speech_in_noise.SPEECH_DB
    }
    return min(errors, key=lambda level: errors[level]), {str(k): v for k, v in errors.items()}


def choose_thresholds(
    detectors: Sequence[Detector], found: Sequence[Series]
) -> tuple[Mapping[str, float], Mapping[str, Mapping[str, int]]]:
    """Return the threshold of each detector, and its errors with each threshold."""
    chosen, counted = {}, {}
    for detector in detectors:
        own = [each for each in found if each.detector == detector.name]
        errors = {
            threshold: turn_errors.count(own, replace(DEFAULT, threshold=threshold)).total
            for threshold in detector.thresholds
        }
        # With equal errors, the one nearest to the default of the protocol.
        chosen[detector.name] = min(
            errors, key=lambda value: (errors[value], abs(value - DEFAULT.threshold))
        )
        counted[detector.name] = {str(value): total for value, total in errors.items()}
    return chosen, counted


def describe(found: Sequence[Series], chosen: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Yield the errors of each detector by noise and kind of speech.

    The detector of the product is shown with the default threshold too, which clients get.
    """

    def key(each: Series) -> tuple[str, int, str, str]:
        return each.noise, each.ratio_db or 0, each.detector, each.kind

    for _, group in groupby(sorted(found, key=key), key):
        series = list(group)
        name = series[0].detector
        for threshold in sorted({chosen[name], DEFAULT.threshold}):
            errors = turn_errors.count(series, replace(DEFAULT, threshold=threshold))
            cpu = statistics.median(each.cpu_s / each.audio_s for each in series)
            yield {
                "noise": series[0].noise,
                "ratio_db": series[0].ratio_db,
                "detector": name,
                "threshold": threshold,
                "is_calibrated": threshold == chosen[name],
                "speech": series[0].kind,
                **errors.describe(),
                "minutes": round(sum(each.audio_s for each in series) / 60, 1),
                "cpu_percent_of_a_core": round(100 * cpu, 3),
            }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the errors by kind of noise, as in docs/decisions/0046."""
    groups: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        kind = "steady" if row["noise"] in speech_in_noise.STEADY else "unsteady"
        noise = "none" if row["ratio_db"] is None else f"{kind}, {row['ratio_db']} dB"
        detector = f"{row['detector']}, threshold {row['threshold']}"
        for speech in (row["speech"], "all"):
            group = groups.setdefault((noise, detector, speech), {"cpu": 0.0, "rows": 0.0})
            for column in _COLUMNS:
                group[column] = group.get(column, 0) + row[column]
            group["cpu"] += row["cpu_percent_of_a_core"]
            group["rows"] += 1
    heads = " | ".join(column.replace("_", " ") for column in _COLUMNS)
    lines = [f"| noise | detector | speech | {heads} | CPU |", "|---" * (len(_COLUMNS) + 4) + "|"]
    for names, group in sorted(groups.items()):
        counts = " | ".join(str(int(group[column])) for column in _COLUMNS)
        lines.append(f"| {' | '.join(names)} | {counts} | {group['cpu'] / group['rows']:.2f} % |")
    return "\n".join(lines)


def conditions() -> Iterator[tuple[str, int | None]]:
    """Yield each noise with its ratio of speech to noise in dB; `None` is no noise."""
    yield "none", None
    for ratio_db in RATIOS_DB:
        for noise in speech_in_noise.NOISES:
            yield noise, ratio_db


if __name__ == "__main__":
    raise SystemExit(main())
