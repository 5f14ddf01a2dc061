"""The windows of video frames: worked examples, and indifference to how the sound arrived."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avatar_runtime.audio import utterance

if TYPE_CHECKING:
    from avatar_runtime.batching.frames import AudioWindow


def _pcm(samples: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(-9000, 9000, samples, "<i2").tobytes()


def _words(samples: int, borders: list[int]) -> bytes:
    """Return sound that changes between noise and silence at the borders."""
    sound = np.frombuffer(_pcm(samples, seed=1), "<i2").copy()
    edges = [0, *sorted(min(border, samples) for border in borders), samples]
    for begin, end in list(itertools.pairwise(edges))[1::2]:
        sound[begin:end] = 0
    return sound.tobytes()


def _windows(pcm: bytes, rate: int = 16_000, fps: int = 25) -> list[AudioWindow]:
    speech = utterance.Utterance(rate, fps)
    speech.append(pcm)
    speech.finish()
    return list(speech.take())


def _real_steps(window: AudioWindow, fps: int = 25) -> tuple[int, int]:
    """Return the first step and the one after the last, from the start of the speech."""
    first = window.frame_index * 50 // fps - 4
    start = first - window.first_step
    return max(first, 0), min(first + 10, start + window.steps)


@pytest.mark.parametrize(
    ("frame", "steps"),
    [(0, (0, 6)), (1, (0, 8)), (2, (0, 10)), (24, (44, 50))],
    ids=["frame 0", "frame 1", "frame 2", "last frame of one second"],
)
def test_windows_use_the_published_steps(frame: int, steps: tuple[int, int]) -> None:
    windows = _windows(_pcm(16_000))

    assert len(windows) == 25
    assert _real_steps(windows[frame]) == steps


def test_a_frame_is_ready_120_ms_after_its_start() -> None:
    speech = utterance.Utterance(16_000)
    speech.append(_pcm(1919))
    before = speech.take()
    speech.append(_pcm(1))

    assert before == []
    assert [w.frame_index for w in speech.take()] == [0]


def test_groups_grow_to_two_frames() -> None:
    groups = [w.group for w in _windows(_pcm(16 * 640))]

    assert groups == [0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]


def test_a_group_shares_one_context_that_ends_with_its_look_ahead() -> None:
    windows = _windows(_pcm(32_000))
    group = [w for w in windows if w.group == 4]

    assert len({id(w.context) for w in group}) == 1
    assert len(group[0].context) == 640 * 8 + 1280  # frames 6 and 7
    assert [w.first_step for w in group] == [8, 10]


def test_a_context_keeps_only_what_the_model_takes() -> None:
    speech = utterance.Utterance(16_000, 25, context_s=1)
    pcm = _pcm(48_000)
    speech.append(pcm)
    last = speech.take()[-1]  # frames 70 and 71: their look-ahead ends at step 148
    samples = np.frombuffer(pcm, "<i2")[(148 - 50) * 320 : 148 * 320] / np.float32(32768)

    assert len(last.context) == 16_000
    assert last.first_step + 10 == 50
    assert np.array_equal(np.frombuffer(last.context, np.float32), samples)


def test_a_context_cannot_be_written() -> None:
    assert all(w.context.readonly for w in _windows(_pcm(6400)))


@pytest.mark.parametrize(
    ("rate", "fps", "samples", "frames"),
    [(24_000, 25, 960, 1), (24_000, 25, 961, 2), (8_000, 25, 1, 1), (24_000, 30, 24_000, 30)],
)
def test_every_sample_is_under_a_frame(rate: int, fps: int, samples: int, frames: int) -> None:
    windows = _windows(_pcm(samples), rate, fps)

    assert [w.frame_index for w in windows] == list(range(frames))


def test_no_audio_gives_no_frame() -> None:
    assert _windows(b"") == []


def test_a_sample_that_is_split_between_messages_is_joined() -> None:
    pcm = _pcm(3000)
    speech = utterance.Utterance(16_000)
    speech.append(pcm[:1001])
    speech.append(pcm[1001:])

    assert speech.samples == 3000


def test_a_finished_utterance_rejects_audio() -> None:
    speech = utterance.Utterance()
    speech.finish()
    with pytest.raises(ValueError, match="finished"):
        speech.append(b"\0\0")


SESSION = utterance.AudioOptions(silence_dbfs=-50)


def _heard(pcm: bytes, audio_options: utterance.AudioOptions = SESSION) -> list[AudioWindow]:
    speech = utterance.Utterance(16_000, 25, 30, audio_options)
    speech.append(pcm)
    speech.finish()
    return list(speech.take())


def test_pauses_are_idle_and_the_mouth_opens_before_the_next_word() -> None:
    windows = _heard(_pcm(6400) + bytes(2 * 9600) + _pcm(6400))

    assert [i for i, w in enumerate(windows) if w.silent] == [*range(17, 23), 34]
    assert [round(w.mouth_opacity, 2) for w in windows[14:26]] == [
        1,
        0.67,
        0.33,
        *[0] * 6,
        0.33,
        0.67,
        1,
    ]


def test_the_end_closes_the_mouth_in_two_frames() -> None:
    windows = _heard(_pcm(6400))

    assert [w.mouth_opacity for w in windows] == [1.0] * 8 + [0.5, 0.0]
    assert [w.silent for w in windows] == [False] * 9 + [True]


def test_without_a_level_every_frame_is_generated() -> None:
    windows = _heard(bytes(2 * 6400), utterance.AudioOptions())

    assert {(w.silent, w.mouth_opacity) for w in windows} == {(False, 1.0)}


@pytest.mark.parametrize(("lookahead_ms", "samples"), [(0, 1920), (40, 2560), (400, 8320)])
def test_a_look_ahead_delays_frames_by_its_length(lookahead_ms: int, samples: int) -> None:
    speech = utterance.Utterance(16_000, 25, 3, utterance.AudioOptions(lookahead_ms))
    speech.append(_pcm(samples - 1))
    before = speech.take()
    speech.append(_pcm(1))
    [first] = speech.take()

    assert before == []
    assert (first.frame_index, len(first.context)) == (0, samples)
    assert _real_steps(first) == (0, 6)  # the window itself is the trained one


@given(
    rate=st.sampled_from([8_000, 16_000, 24_000]),
    fps=st.sampled_from([10, 16, 20, 25, 30]),
    samples=st.integers(0, 40_000),
    words=st.lists(st.integers(0, 40_000), max_size=6),
    lookahead_ms=st.sampled_from([0, 0, 40, 400]),
    cuts=st.lists(st.integers(0, 80_000), max_size=10),
    takes=st.lists(st.booleans(), min_size=12, max_size=12),
)
@example(rate=16_000, fps=25, samples=1920, words=[], lookahead_ms=0, cuts=[], takes=[True] * 12)
@example(  # the last frame but one is ready before anybody knows that the sound ends
    rate=16_000, fps=10, samples=17_600, words=[], lookahead_ms=0, cuts=[35_200], takes=[True] * 12
)
@settings(max_examples=40)
def test_windows_do_not_depend_on_splits_or_on_when_they_are_taken(
    rate: int,
    fps: int,
    samples: int,
    words: list[int],
    lookahead_ms: int,
    cuts: list[int],
    takes: list[bool],
) -> None:
    pcm = _words(samples, words)
    audio_options = utterance.AudioOptions(lookahead_ms, silence_dbfs=-50)
    speech = utterance.Utterance(rate, fps, 1, audio_options)
    windows: list[AudioWindow] = []
    edges = [0, *sorted(min(c, len(pcm)) for c in cuts), len(pcm)]
    for (begin, end), take in zip(itertools.pairwise(edges), takes, strict=False):
        speech.append(pcm[begin:end])
        if take:
            windows += speech.take()
    speech.finish()
    windows += speech.take()
    at_once = utterance.Utterance(rate, fps, 1, audio_options)
    at_once.append(pcm)
    at_once.finish()

    assert [_facts(w) for w in windows] == [_facts(w) for w in at_once.take()]
    assert len(windows) == speech.frames_total == -(-samples * fps // rate)


def _facts(window: AudioWindow) -> tuple[object, ...]:
    return (
        window.frame_index,
        window.group,
        window.first_step,
        window.steps,
        window.silent,
        window.mouth_opacity,
        bytes(window.context),
    )


@given(frame=st.integers(0, 10_000))
def test_groups_cover_every_frame_once(frame: int) -> None:
    number, last = utterance.group_of(frame)

    assert last >= frame
    assert utterance.group_of(last) == (number, last)
    assert utterance.group_of(last + 1)[0] == number + 1


def test_windows_stay_right_when_the_buffer_moves_more_than_once() -> None:
    """The buffer holds two contexts, 2 s here, so that 9 s of audio move it several times."""
    pcm = _words(9 * 16_000, [8_000, 24_000, 40_000, 72_000, 88_000, 120_000])
    samples = np.frombuffer(pcm, "<i2") / np.float32(32768)
    speech = utterance.Utterance(16_000, 25, 1, SESSION)
    windows: list[AudioWindow] = []
    for begin in range(0, len(pcm), 9600):
        speech.append(pcm[begin : begin + 9600])
        windows += speech.take()
    speech.finish()
    windows += speech.take()

    assert len(windows) == 225
    for window in windows[:-5]:  # the contexts of the last ones are padded
        start = max(0, window.frame_index * 2 - 4 - window.first_step) * 320
        context = np.frombuffer(window.context, np.float32)
        assert len(context) == window.steps * 320
        assert np.array_equal(context, samples[start : start + len(context)])
    # A context of 30 s never moves its buffer.
    assert [w.mouth_opacity for w in windows] == [w.mouth_opacity for w in _heard(pcm)]
