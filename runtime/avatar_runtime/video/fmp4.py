"""One growing MP4 file for one session: H.264 and AAC in fragments, one for each message.

FFmpeg writes every box. Its muxer returns a fragment only when it has the packets of the next one,
which would delay each frame by one frame. So each fragment has a muxer of its own, which continues
the timeline by the times of its packets. That costs 0.25 ms (docs/benchmarks/video.json).
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np

from avatar_runtime.audio.decoding import DECODERS
from avatar_runtime.errors import EncoderError
from avatar_runtime.video import h264

if TYPE_CHECKING:
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.media import Encoding, FilePart, RawImage

SOUND_RATE: Final = 24_000
"""Of the sound in the file, Hz. Sound in the default format needs no conversion."""
_SOUND_BITRATE: Final = 64_000
_TICKS: Final = 90_000
"""Of the video per second."""
_MUXER: Final = {
    # A header without samples; a fragment that says where it is; no index at the end.
    "movflags": "empty_moov+default_base_moof+frag_discont+skip_trailer",
    "use_editlist": "0",
    "avoid_negative_ts": "disabled",
    "video_track_timescale": str(_TICKS),
}


class FileEncoder:
    """The file of one session. Only one thread at a time may use it.

    Frame `n` is shown from `n / fps` seconds on. The sound has the same times. Its encoder looks
    ahead, so that the sound in a fragment is up to 0.16 s behind the pictures in it.
    """

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._settings: h264.StreamSettings | None = None
        self._video: Any = None  # streams whose codecs are open
        self._audio: Any = None
        self._last: RawImage | None = None
        self._fragments = 0
        self._sound = _Sound()

    def encode(self, image: RawImage, encoding: Encoding, part: FilePart) -> bytes:
        """Return what follows in the file: whole boxes, with the header before the first ones.

        Raises:
            EncoderError: an encoder failed, or the size of the pictures has changed.
        """
        try:
            header = self._prepare(h264.StreamSettings.of(image, encoding))
            # The keyframe is the new picture; without one before, the first frame is one as well.
            repeated = [(self._last or image, False)] * (part.frames - 1)
            packets = [
                packet
                for number, (shown, keyframe) in enumerate([*repeated, (image, encoding.keyframe)])
                for packet in self._pictures(shown, part.position + number, keyframe=keyframe)
            ]
            self._last = image
            return header + self._fragment(packets, self._sound.encode(self._audio, part))
        except (av.FFmpegError, ValueError) as error:
            raise EncoderError(f"{image.width} x {image.height} in a file: {error}") from error

    def _prepare(self, settings: h264.StreamSettings) -> bytes:
        """Open the encoders that the settings need, and return the header of a new file."""
        if settings == self._settings:
            return b""
        before, self._settings = self._settings, settings
        header, video, audio = self._open(settings)
        if before is None:
            self._video, self._audio = video, audio
            return header
        if video.codec_context.extradata != self._video.codec_context.extradata:
            raise ValueError(f"the file has pictures of {before.width} x {before.height}")
        self._video = video
        return b""

    def _open(self, settings: h264.StreamSettings) -> tuple[bytes, Any, Any]:
        """Return the header of a file and its streams."""
        data = io.BytesIO()
        container = av.open(data, "w", format="mp4", options=_MUXER)
        video: Any = container.add_stream(h264.SOFTWARE, rate=self._fps)
        video.codec_context.time_base = Fraction(1, _TICKS)
        h264.configure(video.codec_context, self._fps, settings, headers_in_file=True)
        audio: Any = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        audio.codec_context.bit_rate = _SOUND_BITRATE
        audio.codec_context.options = {"aac_coder": "fast"}
        container.start_encoding()
        return data.getvalue(), video, audio

    def _pictures(self, image: RawImage, position: int, *, keyframe: bool) -> list[Any]:
        frame = h264.picture(image, keyframe=keyframe)
        ticks = _TICKS // self._fps
        frame.pts, frame.time_base = position * ticks, Fraction(1, _TICKS)
        packets: list[Any] = self._video.encode(frame)
        if len(packets) != 1:
            raise ValueError(f"{len(packets)} access units for one frame")
        packets[0].duration = ticks
        return packets

    def _fragment(self, video: list[Any], audio: list[Any]) -> bytes:
        """Return one fragment, `moof` and `mdat`."""
        self._fragments += 1
        data = io.BytesIO()
        options = {**_MUXER, "fragment_index": str(self._fragments)}
        with av.open(data, "w", format="mp4", options=options) as container:
            streams = [
                container.add_stream_from_template(stream) for stream in (self._video, self._audio)
            ]
            container.start_encoding()
            header_bytes = data.tell()
            for packets, stream in zip((video, audio), streams, strict=True):
                for packet in packets:
                    packet.stream = stream
                    container.mux(packet)
        return data.getvalue()[header_bytes:]


class _Sound:
    """The sound of a file, whose format may change between responses."""

    def __init__(self) -> None:
        self._samples = 0  # in the file
        self._format: AudioFormat | None = None
        self._resampler: Any = None
        self._received = 0  # samples since the format changed, at its rate

    def encode(self, stream: Any, part: FilePart) -> list[Any]:
        """Return the packets of AAC that are complete with the sound of a part."""
        packets: list[Any] = []
        if part.audio != self._format:
            packets += self._finish_format(stream)
            self._format, self._received = part.audio, 0
            self._resampler = None
            if part.audio.rate != SOUND_RATE:
                self._resampler = av.AudioResampler("s16", "mono", SOUND_RATE)
        samples = np.frombuffer(DECODERS[part.audio.kind](part.sound), np.int16)
        if self._resampler is None:
            return packets + self._add(stream, samples)
        frame = _frame(samples, part.audio.rate, self._received)
        self._received += len(samples)
        for converted in self._resampler.resample(frame):
            packets += self._add(stream, converted.to_ndarray()[0])
        return packets

    def _finish_format(self, stream: Any) -> list[Any]:
        """Add what the resampler still holds, so that later sound is at its place."""
        if self._resampler is None:
            return []
        return [
            packet
            for converted in self._resampler.resample(None)
            for packet in self._add(stream, converted.to_ndarray()[0])
        ]

    def _add(self, stream: Any, samples: Any) -> list[Any]:
        frame = _frame(np.ascontiguousarray(samples), SOUND_RATE, self._samples)
        self._samples += len(samples)
        # The first packet holds what is before the sound. Without it, no time is below 0.
        return [packet for packet in stream.encode(frame) if packet.pts >= 0]


def _frame(samples: Any, rate: int, position: int) -> Any:
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
    return frame
