"""Write the sample of the page with espeak-ng: `python -m tests.page.sample`."""

from __future__ import annotations

import io
import subprocess
import wave
from pathlib import Path
from typing import Final

import numpy as np
from scipy.signal import resample_poly  # type: ignore[import-untyped]

RATE: Final = 24000
TEXT: Final = "Hello! I am your avatar. Talk to me."
_PATH: Final = Path(__file__).parents[2] / "runtime/avatar_contracts/page/sample.wav"
_VOICE: Final = ("-v", "en-us+f3", "-s", "150", "-p", "45")
_END_S: Final = 0.2
_LOUDEST: Final = 0.7


def main() -> None:
    """Write the file: 24 kHz, 16 bits, mono."""
    command = ["espeak-ng", *_VOICE, "--stdout", TEXT]
    spoken = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(spoken)) as file:
        rate = file.getframerate()
        said = np.frombuffer(file.readframes(2**24), "<i2").astype(np.float64)
    sound = resample_poly(said, RATE, rate)
    kept = np.flatnonzero(np.abs(sound) > 0.01 * np.abs(sound).max())
    sound = sound[kept[0] : kept[-1] + int(_END_S * RATE)]
    samples = np.round(sound / np.abs(sound).max() * _LOUDEST * 32767).astype("<i2")
    with wave.open(str(_PATH), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        file.writeframes(samples.tobytes())


if __name__ == "__main__":
    main()
