"""Renders an avatar in two ways: as drawn, and through the offline path of the runtime."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import cv2
import numpy as np

from avatar_runtime.avatars import cache
from avatar_runtime.engine.devices.factory import open_device
from avatar_runtime.tools import lipsync
from avatar_training.face import draw, draw_frame
from avatar_training.identities import IDENTITIES
from avatar_training.painting import View
from avatar_training.posing import face_box, swaying
from avatar_training.speech import RATE

if TYPE_CHECKING:
    from pathlib import Path

    from avatar_training.measuring import Picture
    from avatar_training.posing import Mouth, Pose
    from avatar_training.visemes import Floats


class DrawnAvatar:
    """One prepared avatar and the drawing of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored = cache.read(folder)
        self._identity = IDENTITIES[folder.name]
        self._poses = swaying(self.stored.info.frames)

    def pose(self, frame: int) -> Pose:
        """Return the pose of the head in a frame of the endless playback."""
        return self._poses[cache.fold(frame, len(self._poses))]

    def face(self, frame: int, picture: Picture) -> Picture:
        """Crop the face box of a frame."""
        x1, y1, x2, y2 = face_box(self.pose(frame))
        return picture[y1:y2, x1:x2]

    def drawn(self, frame: int, mouth: Mouth) -> Picture:
        """Return the drawn face box of a frame."""
        pose = self.pose(frame)
        x1, y1, x2, y2 = face_box(pose)
        return draw(self._identity, pose, mouth, View(x1, y1, x2, y2, x2 - x1, y2 - y1))

    def whole(self, frame: int, mouth: Mouth) -> Picture:
        """Return a whole drawn frame."""
        return draw_frame(self._identity, self.pose(frame), mouth)


def generated(
    model: Path, avatar: DrawnAvatar, samples: Floats, out: Path
) -> tuple[list[Picture], float]:
    """Speak `samples` (16 kHz); return the face box of each frame, and wall milliseconds per frame.

    The offline path writes its audio, its video and temporarily its frames into `out`.
    """
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
        open_device("cpu", threads=1),
        model,
        avatar.folder,
        sound,
        out / "video.mp4",
        frames_dir=out,
    )
    faces = []
    for frame, file_name in enumerate(sorted(out.glob("*.png"))):
        picture = np.asarray(cv2.imread(str(file_name)), np.uint8)
        faces.append(avatar.face(frame, picture).copy())
        file_name.unlink()
    return faces, 1000 * result["wall_s"] / len(faces)
