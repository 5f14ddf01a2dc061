"""Measures lip sync on unseen voices and sentences in the final frames of `lipsync`."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from avatar_runtime.audio.utterance import Utterance as RuntimeUtterance
from avatar_runtime.batching.frames import FrameRequest
from avatar_runtime.engine.devices.factory import open_device
from avatar_training import picture_checks, pipeline
from avatar_training.crops import frame_mouth
from avatar_training.measuring import OpeningGauge, best_lag, cave_area, correlation
from avatar_training.rendering import DrawnAvatar, generated
from avatar_training.sentences import HELD_OUT_SENTENCES, MINIMAL_PAIR
from avatar_training.speech import RATE, STEP, Synthesizer, Utterance, Voice, corpus, utterance
from avatar_training.unseen_speech import (
    FLITE_VOICES,
    READINGS,
    MissingError,
    flite_speech,
    readings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from avatar_runtime.batching.frames import AudioWindow
    from avatar_training.measuring import Picture
    from avatar_training.visemes import Floats

_GAUGE_FACES: Final = 480
_CEILING_FACES: Final = 160
_GAUGE_SEED: Final = 20_011
_SHUFFLE_BLOCK: Final = RATE // 2
_CONTROL_S: Final = 20.0
_CLOSE_FRAMES: Final = 2  # 80 ms
_SILENCE_S: Final = 1.0
_SPEED_BATCH: Final = 4
_SHEET_COLUMNS: Final = 12
_SHEET_STRIDE: Final = 4
_RATES: Final = (150, 175, 135, 190)
_PITCHES: Final = (50, 38, 62, 45)


@dataclass(frozen=True, slots=True)
class VoiceReport:
    """The measurements of one voice."""

    voice: str
    seconds: float
    opening_correlation: float
    """Correlation of the gauge's reading with the true opening."""
    cave_correlation: float
    """Correlation of the dark area of the mouth with the true opening: a measure without a fit."""
    lag_frames: int
    frame_ms: float
    """Wall time of the offline path per frame, model loading included."""


def evaluate(
    model: Path, avatar_folder: Path, out: Path, voices: Sequence[str], seconds: float
) -> dict[str, Any]:
    """Measure everything, write `out/evaluation.json` and the contact sheets, return the report.

    A second process measures the other synthesizer and the recordings at the same time.
    """
    if not voices:
        raise ValueError("voices is empty, must have at least one voice")
    out.mkdir(parents=True, exist_ok=True)
    avatar = DrawnAvatar(avatar_folder)
    synthesizer = Synthesizer()
    gauge, ceiling = _fitted_gauge(avatar, synthesizer)
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        other_speech = beside.submit(_other_speech, model, avatar_folder, gauge, seconds, out)
        report = _same_synthesizer(model, avatar, gauge, synthesizer, voices, seconds, out)
        report["strangers"] = other_speech.result()
    report |= {
        "avatar": avatar_folder.name,
        "environment": pipeline.environment(),
        "sha256": pipeline.hashes(model),
        "gauge_ceiling": ceiling,
    }
    (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _same_synthesizer(
    model: Path,
    avatar: DrawnAvatar,
    gauge: OpeningGauge,
    synthesizer: Synthesizer,
    voices: Sequence[str],
    seconds: float,
    out: Path,
) -> dict[str, Any]:
    """Measure unseen voices of the training synthesizer; draw the contact sheets."""
    spoken = [_speech(synthesizer, name, i, seconds) for i, name in enumerate(voices)]
    reports: list[dict[str, Any]] = []
    first: list[Picture] = []
    for index, (name, said) in enumerate(zip(voices, spoken, strict=True)):
        faces, per_frame = generated(model, avatar, said.samples, out / f"voice-{index}")
        reports.append(asdict(_voice_report(name, said, faces, gauge, per_frame)))
        first = first or faces
    said = spoken[0]
    cv2.imwrite(str(out / "contact-sheet.png"), _sheet(avatar, said, first, start=30))
    return {
        "voices": reports,
        "shuffled_control": _shuffled_control(model, avatar, said, gauge, out),
        "silence": _silence(model, avatar, synthesizer, voices[0], gauge, out),
        "minimal_pair": _minimal_pair(model, avatar, synthesizer, voices[0], out),
        "pictures": picture_checks.compare(avatar, said, first),
        "speed": _speed(model, avatar, said),
    }


def _speech(synthesizer: Synthesizer, name: str, index: int, seconds: float) -> Utterance:
    voice = Voice(name, _RATES[index % len(_RATES)], _PITCHES[index % len(_PITCHES)])
    parts: list[Utterance] = []
    total = 0.0
    while total < seconds:
        text = HELD_OUT_SENTENCES[(len(parts) + 4 * index) % len(HELD_OUT_SENTENCES)]
        parts.append(utterance(synthesizer, text, voice))
        total += len(parts[-1].samples) / RATE
    return _joined(parts)


def _other_speech(
    model: Path, avatar_folder: Path, gauge: OpeningGauge, seconds: float, out: Path
) -> list[dict[str, Any]]:
    """Measure another synthesizer and recorded readings, or report what is not installed."""
    avatar = DrawnAvatar(avatar_folder)

    def by_flite(voice: str) -> list[Utterance]:
        parts: list[Utterance] = []
        while sum(len(part.samples) for part in parts) < seconds * RATE:
            text = HELD_OUT_SENTENCES[len(parts) % len(HELD_OUT_SENTENCES)]
            parts.append(flite_speech(text, voice))
        return parts

    sources: dict[str, Callable[[], list[Utterance]]] = {
        **{f"flite {voice}": partial(by_flite, voice) for voice in FLITE_VOICES},
        **{name: partial(readings, folder) for name, folder in READINGS.items()},
    }
    reports: list[dict[str, Any]] = []
    for name, spoken in sources.items():
        try:
            said = _joined(spoken())
        except MissingError as error:
            reports.append({"voice": name, "missing": str(error)})
            continue
        faces, per_frame = generated(model, avatar, said.samples, out / name.replace(" ", "-"))
        reports.append(asdict(_voice_report(name, said, faces, gauge, per_frame)))
    return reports


def _joined(parts: Sequence[Utterance]) -> Utterance:
    samples = np.concatenate([p.samples for p in parts])
    mouth = np.concatenate([p.mouth for p in parts])
    even = len(mouth) // 2 * 2
    return Utterance(samples[: even * STEP], mouth[:even])


def _true_opening(said: Utterance) -> Floats:
    return np.asarray(said.mouth[:, 0].reshape(-1, 2).mean(axis=1), np.float32)


def _fitted_gauge(
    avatar: DrawnAvatar, synthesizer: Synthesizer
) -> tuple[OpeningGauge, dict[str, float]]:
    """Fit the gauge to drawn faces, and measure it on other ones: the upper limit of a reading."""
    speech = corpus(synthesizer, 4.0, _GAUGE_SEED)
    rng = np.random.default_rng(_GAUGE_SEED)
    faces, openings = [], []
    for _ in range(_GAUGE_FACES + _CEILING_FACES):
        said = speech[int(rng.integers(len(speech)))]
        mouth = frame_mouth(said.mouth, int(rng.integers(len(said.mouth) // 2)))
        faces.append(avatar.drawn(int(rng.integers(2 * avatar.stored.info.frames)), mouth))
        openings.append(mouth.open)
    truth = np.array(openings, np.float32)
    gauge = OpeningGauge.fit(faces[:_GAUGE_FACES], truth[:_GAUGE_FACES])
    unseen, known = faces[_GAUGE_FACES:], truth[_GAUGE_FACES:]
    caves = np.array([cave_area(face) for face in unseen], np.float32)
    return gauge, {
        "opening_correlation": correlation(gauge.read(unseen), known),
        "cave_correlation": correlation(caves, known),
    }


def _voice_report(
    name: str, said: Utterance, faces: Sequence[Picture], gauge: OpeningGauge, frame_ms: float
) -> VoiceReport:
    true = _true_opening(said)
    measured = gauge.read(faces)[: len(true)]
    caves = np.array([cave_area(face) for face in faces[: len(true)]], np.float32)
    return VoiceReport(
        name,
        round(len(true) / 25, 2),
        round(correlation(measured, true), 4),
        round(correlation(caves, true), 4),
        best_lag(measured, true),
        round(frame_ms, 2),
    )


def _shuffled_control(
    model: Path, avatar: DrawnAvatar, said: Utterance, gauge: OpeningGauge, out: Path
) -> dict[str, float]:
    """Reorder blocks of half a second: the mouth must not correlate with the original order."""
    blocks = min(len(said.samples), round(_CONTROL_S * RATE)) // _SHUFFLE_BLOCK
    samples = said.samples[: blocks * _SHUFFLE_BLOCK].reshape(blocks, -1)
    order = np.random.default_rng(_GAUGE_SEED).permutation(blocks)
    faces, _ = generated(model, avatar, samples[order].ravel(), out / "shuffled")
    true = _true_opening(said)[: len(faces)]
    measured = gauge.read(faces)[: len(true)]
    return {"seconds": blocks / 2, "opening_correlation": round(correlation(measured, true), 4)}


def _silence(
    model: Path,
    avatar: DrawnAvatar,
    synthesizer: Synthesizer,
    voice: str,
    gauge: OpeningGauge,
    out: Path,
) -> dict[str, Any]:
    """Measure the mouth in one second of digital silence after each of three sentences."""
    quiet = np.zeros(round(_SILENCE_S * RATE / STEP) * STEP, np.float32)
    parts, begins, position = [], [], 0
    for text in HELD_OUT_SENTENCES[2:5]:
        said = utterance(synthesizer, text, Voice(voice), lead_s=0.0).samples
        audible = np.flatnonzero(np.abs(said) > 1e-3)[-1] + 1
        parts += [said[:audible], quiet]
        begins.append(position + audible)
        position += audible + len(quiet)
    faces, _ = generated(model, avatar, np.concatenate(parts), out / "silence")
    measured = gauge.read(faces)
    low, high = np.percentile(measured, [1, 99])
    after = []
    for begin in begins:
        first = -(-begin // (2 * STEP)) + _CLOSE_FRAMES
        after.append(measured[first : (begin + len(quiet)) // (2 * STEP) - 1])
    settled = (np.concatenate(after) - low) / (high - low)
    return {
        "opening_share_mean": round(float(settled.mean()), 4),
        "opening_share_p95": round(float(np.percentile(settled, 95)), 4),
        "opening_share_max": round(float(settled.max()), 4),
        "after_ms": 40 * _CLOSE_FRAMES,
    }


def _minimal_pair(
    model: Path, avatar: DrawnAvatar, synthesizer: Synthesizer, voice: str, out: Path
) -> dict[str, float]:
    """Compare two utterances that differ only in their vowels."""
    rows, widths = [], []
    for index, text in enumerate(MINIMAL_PAIR):
        said = _joined([utterance(synthesizer, text, Voice(voice, 130))])
        faces, _ = generated(model, avatar, said.samples, out / f"pair-{index}")
        rows.append(_sheet(avatar, said, faces, start=8))
        open_most = np.argsort(_true_opening(said)[: len(faces)])[-12:]
        widths.append(float(np.mean([cave_area(faces[i]) for i in open_most])))
    width = min(row.shape[1] for row in rows)
    cv2.imwrite(str(out / "contact-sheet-vowels.png"), np.vstack([row[:, :width] for row in rows]))
    return {"cave_area_ah": round(widths[0], 4), "cave_area_oo": round(widths[1], 4)}


def _speed(model: Path, avatar: DrawnAvatar, said: Utterance) -> dict[str, Any]:
    """Measure the stages of an engine's batches, and their total CPU time."""
    device = open_device("cpu", threads=1)
    try:
        loaded = device.load(model)
        device.serve({avatar.folder.name: avatar.stored})
        speech = RuntimeUtterance(RATE, avatar.stored.info.fps, loaded.context_s)
        speech.append((said.samples[: 8 * RATE] * 32767).astype("<i2").tobytes())
        speech.finish()
        requests = [_request(avatar, window) for window in speech.take()]
        device.render(requests[:_SPEED_BATCH])
        stages: Counter[str] = Counter()
        began = time.process_time()
        for at in range(_SPEED_BATCH, len(requests), _SPEED_BATCH):
            stages.update(device.render(requests[at : at + _SPEED_BATCH]).stages)
        processor_s = time.process_time() - began
    finally:
        device.close()
    count = len(requests) - _SPEED_BATCH
    return {
        "batch": _SPEED_BATCH,
        "frames": count,
        "wall_ms_per_frame": {k: round(1000 * v / count, 2) for k, v in stages.items()},
        "processor_ms_per_frame": round(1000 * processor_s / count, 2),
    }


def _request(avatar: DrawnAvatar, window: AudioWindow) -> FrameRequest:
    info = avatar.stored.info
    return FrameRequest(
        "speed", 1, 0, window.frame_index, 0.0, info.name, window.frame_index, window, 80,
        info.width, info.height,
    )  # fmt: skip


def _sheet(avatar: DrawnAvatar, said: Utterance, faces: Sequence[Picture], start: int) -> Picture:
    """Return drawn (upper) above generated (lower) faces of every fourth frame."""
    columns = []
    for frame in range(start, len(faces), _SHEET_STRIDE)[:_SHEET_COLUMNS]:
        pair = (avatar.drawn(frame, frame_mouth(said.mouth, frame)), faces[frame])
        columns.append(np.vstack([cv2.resize(face, (150, 188)) for face in pair]))
    return np.asarray(np.hstack(columns), np.uint8)
