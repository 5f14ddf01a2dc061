"""The choice between the encoder of the GPU and that of the CPU."""

from __future__ import annotations

import pytest

from avatar_runtime.errors import EncoderError
from avatar_runtime.protocol.media import Encoding, RawImage
from avatar_runtime.video import h264, trial


class Encoder(h264.H264Encoder):
    """libx264 in the place of the encoder of a GPU, with a fault."""

    fault = ""

    def __init__(self, fps: int, codec: str) -> None:
        assert codec == h264.HARDWARE
        super().__init__(fps, h264.SOFTWARE)

    def encode(self, image: RawImage, encoding: Encoding) -> bytes:
        match self.fault:
            case "missing":
                raise EncoderError("no such device")
            case "no keyframes":
                encoding = Encoding(False, encoding.quality, encoding.bitrate)
            case "garbage":
                return b"\0\0\0\1\x09\x10"
            case "dark":
                image = RawImage(bytes(len(image.planes)), image.width, image.height)
        return super().encode(image, encoding)


@pytest.mark.parametrize("fault", ["missing", "no keyframes", "garbage", "dark"])
def test_a_failing_trial_chooses_the_cpu(fault: str) -> None:
    class Failing(Encoder):
        pass

    Failing.fault = fault
    assert trial.choose(Failing) == h264.SOFTWARE


def test_a_good_trial_chooses_the_gpu() -> None:
    assert trial.choose(Encoder) == h264.HARDWARE


def test_without_a_gpu_the_cpu_encodes() -> None:
    if trial.choose() == h264.HARDWARE:
        pytest.skip("this machine has the encoder")
    unit = h264.H264Encoder(25, h264.SOFTWARE).encode(
        RawImage(bytes(64 * 96), 64, 64), Encoding(True, 80, 2_000_000)
    )
    assert unit
