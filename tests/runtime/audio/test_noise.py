"""Silence through a microphone: DC, hum and noise draw no frame, and speech over them does."""

from __future__ import annotations

import itertools
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_runtime.audio import energy, noise, utterance

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from avatar_runtime.batching.frames import AudioWindow

    Sound = NDArray[np.float64]

RATE = 16_000
LEARNED = 63
"""Frames after which a noise must be learned: 2.5 s."""
_OPTIONS = utterance.AudioOptions(silence_dbfs=energy.SPEECH_DBFS)


def _dbfs(sound: Sound, level: float) -> Sound:
    return np.asarray(sound * 10 ** (level / 20) / np.sqrt(np.mean(sound**2)))


def _white(seconds: float, seed: int = 0) -> Sound:
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def _pink(seconds: float, seed: int = 0) -> Sound:
    spectrum = np.fft.rfft(_white(seconds, seed))
    spectrum[: round(20 * seconds)] = 0  # below 20 Hz no microphone hears anything
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)))


def _hum(seconds: float, hertz: float) -> Sound:
    """Return a hum whose harmonics fall by 6 dB an octave."""
    times = np.arange(round(seconds * RATE)) / RATE
    parts = [np.sin(2 * np.pi * hertz * k * times + k) / k for k in range(1, 9)]
    return np.asarray(sum(parts))


def _pcm(sound: Sound) -> bytes:
    return np.clip(np.rint(sound * 32768), -32768, 32767).astype("<i2").tobytes()


def _opacities(pcm: bytes, rate: int = RATE) -> NDArray[np.float64]:
    speech = utterance.Utterance(rate, 25, 30, _OPTIONS)
    speech.append(pcm)
    speech.finish()
    return np.array([window.mouth_opacity for window in speech.take()])


@pytest.fixture(scope="module")
def spoken() -> Sound:
    """Return the shipped greeting after 3 s of silence, in which a noise is learned."""
    with wave.open(str(Path(__file__).parents[3] / "examples/speech.wav")) as file:
        assert file.getframerate() == 24_000
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    resampled = np.interp(np.arange(len(sound) * 2 // 3) * 1.5, np.arange(len(sound)), sound)
    return np.concatenate([np.zeros(3 * RATE), resampled, np.zeros(2 * RATE)])


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000])
@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(np.zeros(2 * RATE), id="digital silence"),
        pytest.param(np.full(2 * RATE, 200 / 32768), id="DC"),
        pytest.param(np.full(2 * RATE, -600 / 32768), id="more DC"),
        pytest.param(_dbfs(_hum(2, 50), -48), id="50 Hz"),
        pytest.param(_dbfs(_hum(2, 60), -48), id="60 Hz"),
        pytest.param(_dbfs(_hum(2, 50), -48) + 200 / 32768, id="DC and hum"),
    ],
)
def test_dc_and_hum_draw_no_frame_from_the_start(sound: Sound, rate: int) -> None:
    if rate != RATE:  # the same seconds of the same sound at another rate
        at = np.arange(2 * rate) * RATE / rate
        sound = np.interp(at, np.arange(len(sound)), sound)

    assert not _opacities(_pcm(sound), rate).any()


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(_dbfs(_white(60), -46), id="white noise"),
        pytest.param(_dbfs(_pink(60), -46), id="pink noise"),
        pytest.param(_dbfs(_white(60), -40), id="loud white noise"),
        pytest.param(_dbfs(_hum(60, 50), -36), id="loud 50 Hz"),
        pytest.param(_dbfs(_hum(60, 60), -40), id="loud 60 Hz"),
    ],
)
def test_steady_noise_draws_no_frame_once_it_is_learned(sound: Sound) -> None:
    opacities = _opacities(_pcm(sound))

    assert opacities[: LEARNED // 2].all()  # unknown: it might be speech
    assert not opacities[LEARNED:].any()


@pytest.mark.parametrize(
    "mixed", [pytest.param(_white, id="white noise"), pytest.param(_pink, id="pink noise")]
)
def test_every_frame_of_clean_speech_is_drawn_over_noise(
    spoken: Sound, mixed: Callable[[float], Sound]
) -> None:
    ground = _dbfs(mixed(len(spoken) / RATE), -46)

    clean = _opacities(_pcm(spoken))
    noisy = _opacities(_pcm(spoken + ground[: len(spoken)]))

    after = slice(LEARNED, None)
    assert clean[after].any()
    assert not ((clean > 0) & (noisy == 0))[after].any()
    assert (noisy[after] > 0).sum() <= (clean[after] > 0).sum() + 8  # not all of the silence


def test_the_clean_voice_is_drawn_as_by_its_energy_alone(spoken: Sound) -> None:
    opacities = _opacities(_pcm(spoken))
    whole = spoken[: len(spoken) // 640 * 640].reshape(-1, 640)
    loud = np.mean(whole**2, axis=1) >= 10 ** (-45 / 10)

    assert loud.sum() > 100
    assert opacities[: len(loud)][loud].min() == 1


@pytest.mark.parametrize("level", [-48.5, -47.5, -44])
@pytest.mark.parametrize("hertz", [50, 60])
def test_a_hum_does_not_keep_the_mouth_open_after_speech(
    spoken: Sound, hertz: float, level: float
) -> None:
    hum = _dbfs(_hum(len(spoken) / RATE, hertz)[: len(spoken)], level)

    opacities = _opacities(_pcm(spoken + hum))
    clean = _opacities(_pcm(spoken))

    after = slice(LEARNED, None)
    assert not ((clean > 0) & (opacities == 0))[after].any()
    assert (opacities[after] > 0).sum() <= (clean[after] > 0).sum() + 8


def test_a_loud_steady_voice_is_never_taken_for_noise() -> None:
    sung = _dbfs(_hum(8, 220), -20)

    assert _opacities(_pcm(sung))[:-2].min() == 1


def test_a_noise_that_begins_later_is_learned_and_one_that_ends_is_forgotten() -> None:
    quiet = np.zeros(3 * RATE)
    noisy = _dbfs(_white(5), -42)
    voice = _dbfs(_hum(0.4, 220), -46)  # below the noise that ended
    opacities = _opacities(_pcm(np.concatenate([quiet, noisy, quiet, voice, quiet])))

    seconds = [opacities[25 * second : 25 * (second + 1)] for second in range(11)]
    assert not seconds[1].any()
    assert seconds[3].all()
    assert not np.concatenate(seconds[6:10]).any()
    assert opacities[11 * 25 : 11 * 25 + 10].min() == 1


@settings(max_examples=20)
@given(
    cuts=st.lists(st.integers(0, 2 * 5 * RATE), max_size=30),
    level=st.sampled_from([-60, -50, -46, -40, -34]),
    voice=st.sampled_from([-50, -40, -30]),
)
def test_a_learned_noise_does_not_depend_on_how_the_audio_is_split(
    cuts: list[int], level: int, voice: int
) -> None:
    sound = _dbfs(_pink(5), level)
    sound[3 * RATE : 3 * RATE + 9000] += _dbfs(_hum(1, 220)[:9000], voice)
    pcm = _pcm(sound)
    speech = utterance.Utterance(RATE, 25, 30, _OPTIONS)
    taken: list[AudioWindow] = []
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(pcm)]):
        speech.append(pcm[begin:end])
        taken += speech.take()
    speech.finish()
    taken += speech.take()

    assert [window.mouth_opacity for window in taken] == _opacities(pcm).tolist()


@pytest.mark.parametrize(("hertz", "band"), [(250, 0), (750, 1), (1500, 2), (3000, 3), (6000, 4)])
def test_the_power_of_a_tone_is_in_its_band(hertz: int, band: int) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(2 * noise.STEP) / RATE).astype(np.float32)
    measure = noise.BandPower()
    measure.measure(tone[: noise.STEP])
    bands = measure.measure(tone[noise.STEP :])

    assert bands[band] == pytest.approx(0.5, rel=1e-3)
    assert bands[-1] == pytest.approx(0.5, rel=1e-3)


def test_a_short_last_step_has_the_mean_power_of_its_samples() -> None:
    measure = noise.BandPower()
    whole = _white(1).astype(np.float32)
    powers = [measure.measure(whole[i : i + 160])[-1] for i in range(0, 16_000, 160)]

    assert np.mean(powers) == pytest.approx(7800 / 8000, rel=0.05)  # the band is 7.8 kHz wide


def test_the_minimum_of_steady_noise_is_its_mean_after_the_bias() -> None:
    measure, floor = noise.BandPower(), noise.NoiseFloor()
    sums = np.zeros(noise.BANDS)
    minima = []
    for step in np.split(_white(60).astype(np.float32), 3000):
        bands = measure.measure(step)
        floor.push(bands)
        sums += bands
        if (minimum := floor.minimum()) is not None:
            minima.append(minimum)

    assert len(minima) == 3000 - noise.LEARN_STEPS + 1
    expected = sums / 3000 * noise._BIAS
    assert np.mean(minima, axis=0) == pytest.approx(expected, rel=0.15)
