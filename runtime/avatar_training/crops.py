"""The images of the training data: drawn face crops for moments of the training speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from avatar_training.face import draw_crop
from avatar_training.identities import IDENTITIES
from avatar_training.posing import Mouth, Pose, swaying

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from avatar_training.speech import Utterance
    from avatar_training.visemes import Floats

AVATAR_FRAMES: Final = 48
_FREE_POSES: Final = 24
_CHUNK: Final = 250
_EXTREMES: Final = 0.4
"""Share of crops with a round or a wide open mouth, which are rare in speech."""
_CANDIDATES: Final = 4

Images = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Crops:
    """Speaking faces, and the resting faces from which they are generated."""

    speaking: Images
    """`(n, size, size, 3)` BGR."""
    resting: Images
    """`(rests, size, size, 3)` BGR: one for each identity and pose."""
    rest_of: Integers
    """`(n,)`: row of `resting` with the same identity and pose."""
    utterance: Integers
    frame: Integers
    """`(n,)` each: the time in the speech, at 25 frames per second."""


def frame_mouth(track: Floats, frame: int) -> Mouth:
    """Return the mouth of a video frame: the mean of its two 20 ms steps."""
    values = track[2 * frame : 2 * frame + 2].mean(axis=0)
    return Mouth(*(float(v) for v in values))


def pose_bank(rng: np.random.Generator) -> list[Pose]:
    """Return the poses of the shipped avatars, and some other poses."""
    free = [
        Pose(
            dx=float(rng.uniform(-4, 4)),
            dy=float(rng.uniform(-3, 3)),
            tilt=float(rng.uniform(-2, 2)),
            yaw=float(rng.uniform(-0.8, 0.8)),
            blink=float(rng.choice([0.0, 0.0, rng.uniform(0, 1)])),
            brows=float(rng.uniform(-0.3, 0.8)),
        )
        for _ in range(_FREE_POSES)
    ]
    return [*swaying(AVATAR_FRAMES), *free]


def moment(said: Utterance, rng: np.random.Generator) -> int:
    """Draw a random frame; sometimes the candidate with the most round or most open mouth."""
    choice = rng.integers(len(said.mouth) // 2, size=_CANDIDATES)
    if rng.random() >= _EXTREMES:
        return int(choice[0])
    mouths = [frame_mouth(said.mouth, int(frame)) for frame in choice]
    rounded = rng.random() < 0.5
    extreme = [mouth.round if rounded else mouth.open for mouth in mouths]
    return int(choice[np.argmax(extreme)])


def draw_all(speech: Sequence[Utterance], count: int, size: int, seed: int, folder: Path) -> Crops:
    """Draw `count` speaking crops, or resume an interrupted run."""
    rng = np.random.default_rng([seed, 2])
    poses = pose_bank(rng)
    scenes = [(identity, pose) for identity in IDENTITIES.values() for pose in poses]
    rest_of = rng.integers(len(scenes), size=count)
    utterance = rng.integers(len(speech), size=count)
    frame = np.array([moment(speech[u], rng) for u in utterance])
    folder.mkdir(parents=True, exist_ok=True)

    def drawn(name: str, jobs: Sequence[tuple[int, Mouth]]) -> Images:
        file = folder / f"{name}-{size}-{seed}.npy"
        if file.exists():
            return np.asarray(np.load(file), np.uint8)
        made = np.stack([draw_crop(*scenes[scene], mouth, size) for scene, mouth in jobs])
        np.save(file, made)
        return made

    resting = drawn("rest", [(scene, Mouth()) for scene in range(len(scenes))])
    jobs = [
        (int(r), frame_mouth(speech[u].mouth, int(f)))
        for r, u, f in zip(rest_of, utterance, frame, strict=True)
    ]
    chunks = [
        drawn(f"speaking-{start:05d}", jobs[start : start + _CHUNK])
        for start in tqdm(range(0, count, _CHUNK), desc="faces", mininterval=5)
    ]
    return Crops(np.concatenate(chunks), resting, rest_of, utterance, frame)
