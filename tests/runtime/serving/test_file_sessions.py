"""Sessions in the mode fmp4, over a real socket, with a fake engine; and in a real browser."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np
import pytest
from tests import browser
from websockets.asyncio.client import connect

from avatar_runtime.batching.frames import Frame
from avatar_runtime.engine.rendering import blend_host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from tests.runtime.serving.conftest import Client, FakeEngine, Serve

    from avatar_runtime.batching.frames import FrameRequest

pytestmark = [pytest.mark.slow, pytest.mark.realtime]

FPS: Final = 25
MARKED: Final = range(10, 13)
"""Frames of a response that are bright and have a tone."""
MAX_SKEW_S: Final = 0.002
TONE: Final = np.round(12_000 * np.sin(2 * np.pi * 400 * np.arange(3 * 960) / 24_000))


@pytest.fixture
def engine(make_engine: Callable[..., FakeEngine], monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Return an engine whose marked frames are bright, and all others dark."""
    made = make_engine()

    def planes(request: FrameRequest, *, is_bright: bool) -> bytes:
        pixels = request.width * request.height
        return bytes([200 if is_bright else 40]) * pixels + bytes([128]) * (pixels // 2)

    async def run(batch: Sequence[FrameRequest], on_free: Callable[[], None]) -> Sequence[Frame]:
        await asyncio.sleep(0)
        return [Frame(r, planes(r, is_bright=r.frame_index in MARKED)) for r in batch]

    async def idle_frames(requests: Sequence[FrameRequest]) -> Sequence[Frame]:
        await asyncio.sleep(0)
        assert all(request.raw for request in requests)
        return [Frame(r, planes(r, is_bright=False)) for r in requests]

    monkeypatch.setattr(made, "run", run)
    monkeypatch.setattr(made, "idle_frames", idle_frames)
    return made


def _sound(frames: int) -> bytes:
    """Return silence with a tone beside the marked frames."""
    samples = np.zeros(frames * 960, np.int16)
    samples[MARKED.start * 960 : MARKED.stop * 960] = TONE
    return samples.tobytes()


async def _keep_frames(client: Client) -> None:
    """Let a slow machine pause instead of dropping frames."""
    avatar = {"flow": {"overrun": "pause"}}
    await client.send("session.update", session={"type": "realtime", "avatar": avatar})
    await client.until("session.updated")


async def _record(client: Client) -> list[dict[str, Any]]:
    """Speak two responses with pauses, cancel a third one, and return the deltas."""
    await _keep_frames(client)
    for _ in range(2):
        for _ in range(20):
            await client.until("response.video.delta")
        await client.say(_sound(40))
        await client.until("output_audio_buffer.stopped")
    for _ in range(20):
        await client.until("response.video.delta")
    audio = base64.b64encode(_sound(60)).decode()
    await client.send("input_audio_buffer.append", audio=audio)
    await client.until("output_audio_buffer.started")
    for _ in range(14):
        await client.until("response.video.delta")
    await client.send("response.cancel")
    await client.until("response.done")
    for _ in range(30):
        await client.until("response.video.delta")
    return client.of("response.video.delta")


def _decoded(file: bytes) -> tuple[list[tuple[float, float]], NDArray[np.float32]]:
    """Return the time and the mean of each picture, and the sound from time 0 on."""
    with av.open(io.BytesIO(file)) as container:
        pictures = [
            (frame.time or 0.0, float(frame.to_ndarray(format="gray").mean()))
            for frame in container.decode(video=0)
        ]
    with av.open(io.BytesIO(file)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return pictures, sound


def _starts(values: Sequence[bool] | NDArray[np.bool_], gap: int) -> list[int]:
    """Return where a run begins after at least `gap` values that are false."""
    found = np.flatnonzero(np.asarray(values))
    return [int(at) for at in found[np.diff(found, prepend=-gap - 1) > gap]]


async def test_the_concatenated_deltas_are_one_file_in_step(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve(engine=engine) as served, served.client("?video=fmp4") as client:
        deltas = await _record(client)
        assert b'stage="fmp4"' in served.runtime.metrics.render()
        assert b'avatar_runtime_frames_total{kind="idle"}' in served.runtime.metrics.render()
    assert [event["seq"] for event in client.events] == list(range(1, len(client.events) + 1))
    assert client.of("response.output_audio.delta") == []
    times = [event["file_ms"] for event in deltas]
    assert times == [n * 1000 // FPS for n in range(len(deltas))]

    pictures, sound = _decoded(b"".join(base64.b64decode(event["delta"]) for event in deltas))
    assert [round(time * 1000) for time, _ in pictures] == times
    bright = [luma > 120 for _, luma in pictures]
    seen = [pictures[at][0] for at in _starts(bright, 5)]
    expected = [event["file_ms"] / 1000 for event in deltas if event["frame_index"] == MARKED.start]
    assert seen == pytest.approx(expected)
    assert len(seen) == 3
    heard = [at / 24_000 for at in _starts(np.abs(sound) > 0.1, 4800)]
    assert heard == pytest.approx(seen, abs=MAX_SKEW_S)
    assert len(pictures) / FPS - len(sound) / 24_000 < 0.17


def _picture(number: int) -> NDArray[np.uint8]:
    """Return a colourful picture that moves, `(h, w, 3) uint8` BGR."""
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    planes = [(x * 3 + 5 * number) % 256, (y * 4) % 256, np.full_like(x, 90)]
    image = np.stack(planes, axis=2).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(image, (15, 15), 0), np.uint8)


def _shown(mode: str, deltas: Sequence[dict[str, Any]]) -> dict[tuple[int, float], Any]:
    """Return the pictures of a response in BGR by their index and time."""
    data = [base64.b64decode(event["delta"]) for event in deltas]
    images: list[Any]
    if mode == "jpeg":
        images = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR) for file in data]
    elif mode == "h264":
        context: Any = av.CodecContext.create("h264", "r")
        context.thread_count = 1
        frames = [frame for unit in data for frame in context.decode(av.Packet(unit))]
        images = [frame.to_ndarray(format="bgr24") for frame in frames]
    else:
        with av.open(io.BytesIO(b"".join(data))) as container:
            images = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    return {
        (event["frame_index"], event["pts_ms"]): image
        for event, image in zip(deltas, images, strict=True)
        if not event["idle"]
    }


MIN_PSNR_DB: Final = 34
"""Between the source and each mode at quality 80, and between two modes."""


async def test_all_modes_show_the_same_pictures_at_the_same_times(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(batch: Sequence[FrameRequest], on_free: Callable[[], None]) -> Sequence[Frame]:
        await asyncio.sleep(0)
        pictures = [blend_host.shown(_picture(r.frame_index), r) for r in batch]
        return [
            Frame(r, blend_host.encode_shown(picture, r))
            for r, picture in zip(batch, pictures, strict=True)
        ]

    monkeypatch.setattr(engine, "run", run)
    shown = {}
    async with serve(engine=engine) as served:
        for mode in ("jpeg", "h264", "fmp4"):
            async with served.client(f"?video={mode}") as client:
                await _keep_frames(client)
                await client.say(_sound(60))
                await client.until("response.done")
                for _ in range(6 if mode == "fmp4" else 0):
                    await client.until("response.video.delta")
                shown[mode] = _shown(mode, client.of("response.video.delta"))
    assert list(shown["jpeg"]) == [(n, n * 1000 / FPS) for n in range(60)]
    for one, other in itertools.combinations(shown, 2):
        assert list(shown[one]) == list(shown[other])
        for key, picture in shown[one].items():
            assert cv2.PSNR(picture, shown[other][key]) > MIN_PSNR_DB
    for pictures in shown.values():
        for (index, _), picture in pictures.items():
            assert cv2.PSNR(picture, _picture(index)) > MIN_PSNR_DB


async def test_azures_client_gets_the_file(
    serve: Serve, engine: FakeEngine, make_client: Callable[[Any], Client]
) -> None:
    video = {
        "codec": "h264",
        "bitrate": 1_000_000,
        "resolution": {"width": 128, "height": 128},
        "crop": {"top_left": [0, 0], "bottom_right": [64, 64]},
    }
    avatar = {"character": "anna", "video": video}
    async with serve(engine=engine) as served:
        url = f"ws://{served.sessions}/voice-live/realtime?api-version=2025-10-01"
        async with connect(url) as socket:
            client = make_client(socket)
            await client.until("session.created")
            wanted = ["text", "audio", "avatar"]
            await client.send("session.update", session={"modalities": wanted, "avatar": avatar})
            await client.until("session.updated")
            await client.say(_sound(20))
            await client.until("response.done")
            for _ in range(10):
                await client.until("response.video.delta")
        assert not client.of("error") + client.of("warning") + client.of("response.audio.delta")
        deltas = client.of("response.video.delta")
    file = b"".join(base64.b64decode(event["delta"]) for event in deltas)
    pictures, sound = _decoded(file)
    assert len(pictures) == len(deltas)
    assert len(_starts(np.abs(sound) > 0.1, 4800)) == 1
    with av.open(io.BytesIO(file)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 128)


async def test_two_sessions_have_two_files(serve: Serve, engine: FakeEngine) -> None:
    async with (
        serve(engine=engine) as served,
        served.client("?video=fmp4") as one,
        served.client("?video=fmp4") as other,
    ):
        for client in (one, other, one, other):
            for _ in range(10):
                event = await client.until("response.video.delta")
        assert event["idle"]
    for client in (one, other):
        file = b"".join(base64.b64decode(e["delta"]) for e in client.of("response.video.delta"))
        assert file[4:8] == b"ftyp"
        assert file.count(b"moov") == 1
        assert len(_decoded(file)[0]) == 20


async def test_idle_frames_in_h264_decode_with_those_of_responses(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve(engine=engine) as served, served.client("?video=h264") as client:
        session = {"type": "realtime", "avatar": {"idle": "stream"}}
        await client.send("session.update", session=session)
        for _ in range(30):
            await client.until("response.video.delta")
        await client.say(_sound(20))
        await client.until("output_audio_buffer.stopped")
        for _ in range(10):
            await client.until("response.video.delta")
    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    bright = []
    for event in client.of("response.video.delta"):
        assert ("seq" in event) is not event["idle"]
        (frame,) = context.decode(av.Packet(base64.b64decode(event["delta"])))
        if frame.to_ndarray(format="gray").mean() > 120:
            bright.append(event["frame_index"])
    assert bright == list(MARKED)


PLAY = """async ({parts, codecs}) => {
  const decode = part => Uint8Array.from(atob(part), c => c.charCodeAt(0));
  const source = new MediaSource(), video = document.createElement("video");
  document.body.append(video);
  video.muted = true;
  video.src = URL.createObjectURL(source);
  await new Promise(resolve => source.addEventListener("sourceopen", resolve, {once: true}));
  const buffer = source.addSourceBuffer(codecs), ranges = [];
  for (const part of parts) {
    buffer.appendBuffer(decode(part));
    await new Promise((resolve, reject) => {
      buffer.addEventListener("updateend", resolve, {once: true});
      buffer.addEventListener("error", () => reject("append"), {once: true});
    });
    if (buffer.buffered.length > 1) throw "a gap";
  }
  source.endOfStream();
  const range = [buffer.buffered.start(0), buffer.buffered.end(0)];
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  canvas.width = canvas.height = 1;
  const shown = [];
  const watch = (_, metadata) => {
    context.drawImage(video, 0, 0, 1, 1);
    shown.push([metadata.mediaTime, ...context.getImageData(0, 0, 1, 1).data]);
    video.requestVideoFrameCallback(watch);
  };
  video.requestVideoFrameCallback(watch);
  await video.play();
  await new Promise((resolve, reject) => {
    video.addEventListener("ended", resolve, {once: true});
    video.addEventListener("error", () => reject(video.error.message), {once: true});
  });
  const bytes = await new Blob(parts.map(decode)).arrayBuffer();
  const sound = await new OfflineAudioContext(1, 1, 24000).decodeAudioData(bytes);
  return {range, shown, size: [video.videoWidth, video.videoHeight],
          sound: Array.from(sound.getChannelData(0))};
}"""


@pytest.mark.e2e
@browser.NEEDS_CHROMIUM
async def test_a_browser_plays_the_deltas_of_a_session_in_step(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve(engine=engine) as served, served.client("?video=fmp4") as client:
        deltas = await _record(client)
    parts = [event["delta"] for event in deltas]
    head = base64.b64decode(parts[0])
    sps = head.index(b"avcC") + 5
    codecs = f'video/mp4; codecs="avc1.{head[sps : sps + 3].hex()}, mp4a.40.2"'
    async with browser.new_page() as page:
        await page.goto("about:blank")
        assert await page.evaluate("codecs => MediaSource.isTypeSupported(codecs)", codecs)
        played = await page.evaluate(PLAY, {"parts": parts, "codecs": codecs})
    start, end = played["range"]
    assert start == 0
    assert end == pytest.approx(len(deltas) / FPS, abs=0.05)
    assert played["size"] == [64, 64]
    # A busy machine skips frames, but those that are shown are the right ones.
    bright = {event["file_ms"] for event in deltas if event["frame_index"] in MARKED}
    assert len(played["shown"]) > len(deltas) // 4
    for time, red, *_ in played["shown"]:
        assert (red > 120) is (round(time * 1000) in bright), time
    seen = [e["file_ms"] / 1000 for e in deltas if e["frame_index"] == MARKED.start]
    heard = [at / 24_000 for at in _starts(np.abs(np.array(played["sound"])) > 0.1, 4800)]
    assert heard == pytest.approx(seen, abs=MAX_SKEW_S)
