"""Sound of every format a session takes, however its messages cut it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_runtime.audio import g711
from avatar_runtime.audio.decoding import AudioDecoder
from avatar_runtime.audio.utterance import AudioOptions
from avatar_runtime.protocol.audio_formats import A_LAW, FORMATS, MU_LAW, AudioFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_runtime.batching.frames import AudioWindow

OPTIONS = AudioOptions(silence_dbfs=-50)


def _heard(audio: AudioFormat, pieces: Sequence[bytes]) -> list[tuple[object, ...]]:
    voice = AudioDecoder(audio, 25, 3, OPTIONS)
    windows: list[AudioWindow] = []
    for piece in pieces:
        voice.append(piece)
        windows += voice.take()
    voice.finish()
    windows += voice.take()
    return [
        (w.frame_index, w.group, w.first_step, w.steps, w.mouth_opacity, bytes(w.context))
        for w in windows
    ]


@pytest.mark.parametrize("audio", FORMATS, ids=lambda a: f"{a.kind} {a.rate}")
@given(
    samples=st.integers(0, 12_000),
    cuts=st.lists(st.integers(0, 12_000), max_size=10),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=10)
def test_messages_may_split_the_audio_anywhere(
    audio: AudioFormat, samples: int, cuts: list[int], seed: int
) -> None:
    width = audio.bytes_per_sample
    sound = np.random.default_rng(seed).integers(0, 256, samples * width, np.uint8).tobytes()
    edges = [0, *sorted(min(cut, samples) for cut in cuts), samples]
    pieces = [sound[a * width : b * width] for a, b in itertools.pairwise(edges)]

    assert _heard(audio, pieces) == _heard(audio, [sound])


@pytest.mark.parametrize(
    ("audio", "decode"),
    [(MU_LAW, g711.decode_ulaw), (A_LAW, g711.decode_alaw)],
    ids=["mu-law", "A-law"],
)
@given(code=st.binary(min_size=1, max_size=4000))
@settings(max_examples=10)
def test_g711_equals_the_pcm_that_it_encodes(
    audio: AudioFormat, decode: Callable[[bytes], bytes], code: bytes
) -> None:
    telephone = AudioDecoder(audio, 25, 3, OPTIONS)
    telephone.append(code)
    telephone.finish()
    plain = AudioDecoder(AudioFormat("audio/pcm", 8_000, 2, bytes(2)), 25, 3, OPTIONS)
    plain.append(decode(code))
    plain.finish()

    pairs = zip(telephone.take(), plain.take(), strict=True)
    assert all(bytes(a.context) == bytes(b.context) for a, b in pairs)
