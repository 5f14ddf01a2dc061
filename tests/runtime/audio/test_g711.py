"""Decoding of G.711, against FFmpeg for every code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from avatar_runtime.audio import g711

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY_CODE = bytes(range(256))


@pytest.mark.parametrize(
    ("decode", "codec"),
    [
        pytest.param(g711.decode_ulaw, "pcm_mulaw", id="mu-law"),
        pytest.param(g711.decode_alaw, "pcm_alaw", id="A-law"),
    ],
)
def test_every_code_decodes_as_ffmpeg_does(decode: Callable[[bytes], bytes], codec: str) -> None:
    context = av.CodecContext.create(codec, "r")
    context.sample_rate, context.layout = 8000, "mono"
    reference = context.decode(av.Packet(_EVERY_CODE))[0].to_ndarray()[0]

    decoded = np.frombuffer(decode(_EVERY_CODE), "<i2")

    assert decoded.tolist() == reference.tolist()


def test_mu_law_ends_are_those_of_the_standard() -> None:
    assert np.frombuffer(g711.decode_ulaw(b"\xff\x00\x80"), "<i2").tolist() == [0, -32124, 32124]


@pytest.mark.parametrize(
    ("decode", "encode"),
    [
        pytest.param(g711.decode_ulaw, g711.encode_ulaw, id="mu-law"),
        pytest.param(g711.decode_alaw, g711.encode_alaw, id="A-law"),
    ],
)
def test_a_sample_is_encoded_as_the_nearest_code(
    decode: Callable[[bytes], bytes], encode: Callable[[Any], bytes]
) -> None:
    levels = np.frombuffer(decode(_EVERY_CODE), "<i2")
    assert decode(encode(levels)) == levels.tobytes()
    samples = np.arange(-32768, 32768, 7).astype("<i2")
    found = np.frombuffer(decode(encode(samples)), "<i2").astype(int)
    nearest = np.abs(levels.astype(int)[None, :] - samples[:, None]).min(axis=1)
    assert np.abs(found - samples).tolist() == nearest.tolist()
