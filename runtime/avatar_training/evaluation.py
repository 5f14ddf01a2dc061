"""Measures lip sync on unseen voices and sentences, in the frames that `lipsync` finishes."""

from __future__ import annotations

import json
import time
import wave
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from avatar_runtime.audio.utterance import Utterance as RuntimeUtterance
from avatar_runtime.avatars import cache
from avatar_runtime.batching.frames import FrameRequest
from avatar_runtime.engine import lipsync
from avatar_runtime.engine.device import open_device
from avatar_training import pipeline
from avatar_training.crops import frame_mouth
from avatar_training.face import IDENTITIES, Mouth, draw, face_box, swaying
from avatar_training.measuring import OpeningGauge, best_lag, cave_area, correlation
from avatar_training.painting import View
from avatar_training.sentences import HELD_OUT_SENTENCES, MINIMAL_PAIR
from avatar_training.speech import RATE, STEP, Synthesizer, Utterance, Voice, corpus, utterance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from avatar_runtime.batching.windows import AudioWindow
    from avatar_training.face import Pose
    from avatar_training.measuring import Picture
    from avatar_training.visemes import Floats

_GAUGE_FACES: Final = 480
_CEILING_FACES: Final = 160
_GAUGE_SEED: Final = 20_011
_SHUFFLE_BLOCK: Final = RATE // 2
_CONTROL_S: Final = 20.0
_CLOSE_FRAMES: Final = 2  # 80 ms
_SILENCE_S: Final = 1.0
_COMPARED_FRAMES: Final = 200
_LIPSYNC_QUALITY: Final = 95
_SPEED_BATCH: Final = 4
_SHEET_COLUMNS: Final = 12
_SHEET_STRIDE: Final = 4
_RATES: Final = (150, 175, 135, 190)
_PITCHES: Final = (50, 38, 62, 45)


@dataclass(frozen=True, slots=True)
class VoiceReport:
    """What one voice measured."""

    voice: str
    seconds: float
    opening_correlation: float
    """Of the gauge's reading with the true opening."""
    cave_correlation: float
    """Of the dark area of the mouth with the true opening: a measure without a fit."""
    lag_frames: int
    frame_ms: float
    """Wall time of the offline path per frame, model loading included."""


class _Avatar:
    """One prepared avatar and the drawing that it was made from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored = cache.read(folder)
        self._identity = IDENTITIES[folder.name]
        self._poses = swaying(self.stored.info.frames)

    def pose(self, frame: int) -> Pose:
        return self._poses[cache.fold(frame, len(self._poses))]

    def face(self, frame: int, picture: Picture) -> Picture:
        """Cut the face box of a frame out of its picture."""
        x1, y1, x2, y2 = face_box(self.pose(frame))
        return picture[y1:y2, x1:x2]

    def drawn(self, frame: int, mouth: Mouth) -> Picture:
        """Return the face box of a frame as the truth draws it."""
        pose = self.pose(frame)
        x1, y1, x2, y2 = face_box(pose)
        return draw(self._identity, pose, mouth, View(x1, y1, x2, y2, x2 - x1, y2 - y1))


def evaluate(
    model: Path, avatar_folder: Path, out: Path, voices: Sequence[str], seconds: float
) -> dict[str, Any]:
    """Measure everything, write `out/evaluation.json` and the contact sheets, return the report."""
    out.mkdir(parents=True, exist_ok=True)
    avatar = _Avatar(avatar_folder)
    synthesizer = Synthesizer()
    gauge, ceiling = _fitted_gauge(avatar, synthesizer)
    reports, first = [], None
    for index, name in enumerate(voices):
        said = _speech(synthesizer, name, index, seconds)
        faces, per_frame = _generated(model, avatar, said.samples, out / f"voice-{index}")
        reports.append(_voice_report(name, said, faces, gauge, per_frame))
        first = first or (said, faces)
    if first is None:
        raise ValueError("no voice to evaluate")
    said, faces = first
    report: dict[str, Any] = {
        "avatar": avatar_folder.name,
        "environment": pipeline.environment(),
        "sha256": pipeline.hashes(model),
        "gauge_ceiling": ceiling,
        "voices": [asdict(r) for r in reports],
        "shuffled_control": _shuffled_control(model, avatar, said, gauge, out),
        "silence": _silence(model, avatar, synthesizer, voices[0], gauge, out),
        "minimal_pair": _minimal_pair(model, avatar, synthesizer, voices[0], out),
        "pictures": _pictures(avatar, said, faces),
        "speed": _speed(model, avatar, said),
    }
    cv2.imwrite(str(out / "contact-sheet.png"), _sheet(avatar, said, faces, start=30))
    (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _speech(synthesizer: Synthesizer, name: str, index: int, seconds: float) -> Utterance:
    voice = Voice(name, _RATES[index % len(_RATES)], _PITCHES[index % len(_PITCHES)])
    parts: list[Utterance] = []
    total = 0.0
    while total < seconds:
        text = HELD_OUT_SENTENCES[(len(parts) + 4 * index) % len(HELD_OUT_SENTENCES)]
        parts.append(utterance(synthesizer, text, voice))
        total += len(parts[-1].samples) / RATE
    return _joined(parts)


def _joined(parts: Sequence[Utterance]) -> Utterance:
    samples = np.concatenate([p.samples for p in parts])
    mouth = np.concatenate([p.mouth for p in parts])
    even = len(mouth) // 2 * 2
    return Utterance(samples[: even * STEP], mouth[:even])


def _true_opening(said: Utterance) -> Floats:
    return np.asarray(said.mouth[:, 0].reshape(-1, 2).mean(axis=1), np.float32)


def _generated(
    model: Path, avatar: _Avatar, samples: Floats, out: Path
) -> tuple[list[Picture], float]:
    out.mkdir(parents=True, exist_ok=True)
    sound = out / "speech.wav"
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    for old in out.glob("*.png"):
        old.unlink()
    result = lipsync.run(
        open_device("cpu"), model, avatar.folder, sound, out / "video.mp4", frames_dir=out
    )
    faces = []
    for frame, file_name in enumerate(sorted(out.glob("*.png"))):
        picture = np.asarray(cv2.imread(str(file_name)), np.uint8)
        faces.append(avatar.face(frame, picture).copy())
        file_name.unlink()
    return faces, 1000 * result["wall_s"] / len(faces)


def _fitted_gauge(
    avatar: _Avatar, synthesizer: Synthesizer
) -> tuple[OpeningGauge, dict[str, float]]:
    """Fit the gauge to drawn faces, and measure it on others: no reading can be better."""
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
    model: Path, avatar: _Avatar, said: Utterance, gauge: OpeningGauge, out: Path
) -> dict[str, float]:
    """Speak the same half seconds in another order: the mouth must not fit the old order."""
    blocks = min(len(said.samples), round(_CONTROL_S * RATE)) // _SHUFFLE_BLOCK
    samples = said.samples[: blocks * _SHUFFLE_BLOCK].reshape(blocks, -1)
    order = np.random.default_rng(_GAUGE_SEED).permutation(blocks)
    faces, _ = _generated(model, avatar, samples[order].ravel(), out / "shuffled")
    true = _true_opening(said)[: len(faces)]
    measured = gauge.read(faces)[: len(true)]
    return {"seconds": blocks / 2, "opening_correlation": round(correlation(measured, true), 4)}


def _silence(
    model: Path,
    avatar: _Avatar,
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
    faces, _ = _generated(model, avatar, np.concatenate(parts), out / "silence")
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
    model: Path, avatar: _Avatar, synthesizer: Synthesizer, voice: str, out: Path
) -> dict[str, float]:
    """Compare two utterances that differ only in their vowels."""
    rows, widths = [], []
    for index, text in enumerate(MINIMAL_PAIR):
        said = _joined([utterance(synthesizer, text, Voice(voice, 130))])
        faces, _ = _generated(model, avatar, said.samples, out / f"pair-{index}")
        rows.append(_sheet(avatar, said, faces, start=8))
        open_most = np.argsort(_true_opening(said)[: len(faces)])[-12:]
        widths.append(float(np.mean([cave_area(faces[i]) for i in open_most])))
    width = min(row.shape[1] for row in rows)
    cv2.imwrite(str(out / "contact-sheet-vowels.png"), np.vstack([row[:, :width] for row in rows]))
    return {"cave_area_ah": round(widths[0], 4), "cave_area_oo": round(widths[1], 4)}


def _pictures(avatar: _Avatar, said: Utterance, faces: Sequence[Picture]) -> dict[str, float]:
    """Compare generated with drawn faces: error, the border of the mask, flicker beside the mouth.

    Changes are mean absolute differences of consecutive frames in the face box outside the
    mouth's rectangle, in levels of 255: of the source frames (as a JPEG, as the generated ones
    are), of the drawn truth, whose jaw moves, and of the generated frames.
    """
    errors = _PictureErrors([], [], [])
    changes: dict[str, list[float]] = {"source": [], "drawn": [], "generated": []}
    before: dict[str, Floats] = {}
    for frame in range(min(len(faces), _COMPARED_FRAMES)):
        index = cache.fold(frame, avatar.stored.info.frames)
        true = avatar.drawn(frame, frame_mouth(said.mouth, frame))
        source = avatar.face(frame, _recompressed(avatar.stored.picture(index)))
        mouth = _mouth_rectangle(true.shape[0], true.shape[1])
        errors.add(faces[frame], true, avatar.stored.mask(index), mouth)
        now = {
            name: picture.astype(np.float32)
            for name, picture in (("source", source), ("drawn", true), ("generated", faces[frame]))
        }
        for name, picture in now.items():
            # A box that moved by a pixel is another piece of the frame: nothing to compare.
            if before and before[name].shape == picture.shape:
                changes[name].append(float(np.abs(picture - before[name])[~mouth].mean()))
        before = now
    return errors.report() | {
        f"change_{name}_levels": round(float(np.mean(values)), 3)
        for name, values in changes.items()
    }


@dataclass(frozen=True, slots=True)
class _PictureErrors:
    """Errors of generated faces, a list entry per frame."""

    mouth: list[float]
    border: list[float]
    inside: list[float]

    def add(
        self, made: Picture, true: Picture, mask: Picture, mouth: npt.NDArray[np.bool_]
    ) -> None:
        error = made.astype(np.float32) - true
        levels = np.abs(error).mean(axis=2)
        self.mouth.append(float(np.square(error)[mouth].mean()))
        self.border.append(float(levels[(mask > 8) & (mask < 247) & ~mouth].mean()))
        self.inside.append(float(levels[(mask >= 247) & ~mouth].mean()))

    def report(self) -> dict[str, float]:
        return {
            "mouth_psnr_db": round(float(-10 * np.log10(np.mean(self.mouth) / 255**2)), 2),
            "border_error_levels": round(float(np.mean(self.border)), 3),
            "inside_error_levels": round(float(np.mean(self.inside)), 3),
        }


def _mouth_rectangle(height: int, width: int) -> npt.NDArray[np.bool_]:
    inside = np.zeros((height, width), bool)
    inside[round(height * 0.62) : round(height * 0.93), width // 5 : width * 4 // 5] = True
    return inside


def _recompressed(picture: Picture) -> Picture:
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _LIPSYNC_QUALITY])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


def _speed(model: Path, avatar: _Avatar, said: Utterance) -> dict[str, Any]:
    """Time the stages of an engine's batches, and all processor time that they take."""
    device = open_device("cpu")
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


def _request(avatar: _Avatar, window: AudioWindow) -> FrameRequest:
    info = avatar.stored.info
    return FrameRequest(
        "speed", 1, 0, window.frame_index, 0.0, info.name, window.frame_index, window, 80,
        info.width, info.height,
    )  # fmt: skip


def _sheet(avatar: _Avatar, said: Utterance, faces: Sequence[Picture], start: int) -> Picture:
    """Return drawn (upper) above generated (lower) faces of every fourth frame."""
    columns = []
    for frame in range(start, len(faces), _SHEET_STRIDE)[:_SHEET_COLUMNS]:
        pair = (avatar.drawn(frame, frame_mouth(said.mouth, frame)), faces[frame])
        columns.append(np.vstack([cv2.resize(face, (150, 188)) for face in pair]))
    return np.asarray(np.hstack(columns), np.uint8)
