"""Runs one TFLite model with OpenCV's own reader, so that no TensorFlow is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from avatar_runtime import errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class TfliteModel:
    """One model with one input and the named outputs. Not safe for use by two threads at once."""

    def __init__(self, path: Path, outputs: Sequence[str]) -> None:
        """Read the model.

        Raises:
            AssetError: OpenCV cannot read the file, or an output is missing.
        """
        try:
            # The new engine of OpenCV 5 leaves out the scores of the detector.
            self._net = cv2.dnn.readNetFromTFLite(str(path), engine=cv2.dnn.ENGINE_CLASSIC)
            found = set(self._net.getUnconnectedOutLayersNames())
        except cv2.error as error:
            raise errors.AssetError(str(path), f"unreadable: {error.err or error}") from error
        if missing := [name for name in outputs if name not in found]:
            raise errors.AssetError(
                str(path), f"has the outputs {sorted(found)}, must have {missing}"
            )
        self._outputs = tuple(outputs)

    def run(self, square: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the outputs for one picture, `(s, s, 3) float32` RGB in the model's own range."""
        blob = np.ascontiguousarray(square.transpose(2, 0, 1)[None])
        self._net.setInput(blob)
        # forward() returns views of buffers that the next call overwrites.
        return [np.array(output) for output in self._net.forward(self._outputs)]
