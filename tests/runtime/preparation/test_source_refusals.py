"""What a source must not be: an address, a device, a playlist, a bomb; and what the errors say."""

from __future__ import annotations

import gc
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
from tests.runtime.preparation import clips

from avatar_runtime import errors
from avatar_runtime.preparation import sources
from avatar_runtime.preparation.source import SourceLimits, SourceOptions
from avatar_runtime.preparation.sources import container, files


def fault_of(path: str | Path, options: SourceOptions | None = None) -> str:
    """Return the one sentence that refuses the source, without the path."""
    with pytest.raises(errors.SourceError) as caught:
        list(sources.open(path, options).frames())
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return caught.value.fault


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:9/a.mp4", "https://a/b", "rtmp://a/b", "file:///etc/passwd", "smb://a/b"],
)
def test_an_address_is_refused(address: str) -> None:
    assert fault_of(address).startswith("is a URL; download the file first")


@pytest.mark.parametrize(
    "name", ["concat:a.mp4|b.mp4", "pipe:0", "subfile,,start,0,end,9,,:/etc/passwd", "a\0b", "-"]
)
def test_a_protocol_of_ffmpeg_is_only_a_file_name(name: str) -> None:
    fault = fault_of(name)
    assert fault == "does not exist" or "null byte" in fault


def test_files_that_are_not_regular(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    assert fault_of(pipe) == "is a named pipe, must be a file or a folder"
    assert fault_of("/dev/zero") == "is a device, must be a file or a folder"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert "cannot be opened" in fault_of(tmp_path / "socket")
    (tmp_path / "empty.mp4").touch()
    assert fault_of(tmp_path / "empty.mp4") == "is empty"
    assert fault_of(tmp_path / "none.mp4") == "does not exist"
    (tmp_path / "circle").symlink_to("circle")
    assert "cannot be opened" in fault_of(tmp_path / "circle")


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    target = clips.write(tmp_path / "a.mp4", clips.numbered(30))
    (tmp_path / "link.mp4").symlink_to(target)
    assert sources.open(tmp_path / "link.mp4").info.frames == 30


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"hello " * 100, "is not a video or picture that can be read; supported are"),
        (b"<!DOCTYPE html><html></html>", "is not a video or picture"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a video or picture"),
        (b"\0" * 5000, "is not a video or picture"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "is a HEIC photo; save it as JPEG or PNG"),
        (b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(64), "is an animated WebP"),
        (
            b"\0\0\0\x18ftypisom" + bytes(100),
            "is an MP4, MOV or AVIF file that is cut off or damaged",
        ),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert fault_of(path).startswith(fault)


def test_a_cut_mp4_without_its_index(tmp_path: Path) -> None:
    path = clips.truncate(clips.write(tmp_path / "a.mp4", clips.numbered(40)), 0.8)
    assert fault_of(path).startswith("is an MP4, MOV or AVIF file that is cut off or damaged")


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    assert fault_of(clips.write_sound_only(tmp_path / "a.m4a")) == "has sound but no moving picture"


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{url}'\n",
    "dash": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4">'
        '<Representation id="0" bandwidth="9"><BaseURL>{url}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    ),
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
    "asx": '<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
    "smil": '<smil><body><video src="{url}"/></body></smil>',
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>',
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".mpd", ".txt"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_is_not_followed(tmp_path: Path, kind: str, suffix: str) -> None:
    """Neither a local file nor a server that a playlist names is opened."""
    secret = clips.write(tmp_path / "secret.ts", clips.numbered(40), clips.FORMATS["h264.ts"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}/a.ts", secret.as_uri(), str(secret), secret.name):
            path = tmp_path / f"list{suffix}"
            path.write_text(PLAYLISTS[kind].format(url=url, port=port))
            assert fault_of(path).startswith("is not a video or picture")
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_demuxer_gets_no_second_file() -> None:
    """The second defence: whatever a format asks for is refused."""
    with pytest.raises(PermissionError):
        container._refuse_to_open("/etc/passwd", 1, {})


def test_a_reference_to_another_file_in_a_mov(tmp_path: Path) -> None:
    """A data reference of QuickTime names the file that holds the frames."""
    secret = clips.write(tmp_path / "secret.mov", clips.numbered(40), clips.FORMATS["h264.mov"])
    data = secret.read_bytes()
    start = data.index(b"dref") - 4
    size = struct.unpack(">I", data[start : start + 4])[0]
    alias = struct.pack(">II4sI", 0, 1, b"url ", 0)[8:] + secret.as_uri().encode() + b"\0"
    entry = struct.pack(">I", len(alias) + 4) + alias
    box = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    path = tmp_path / "a.mov"
    path.write_bytes(data[:start] + box + data[start + size :])
    fault_of(path)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of this size that holds too little data."""
    made = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        made += (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )
    return made


@pytest.mark.parametrize("side", [10_001, 60_000, 1 << 31])
def test_a_photo_with_too_many_pixels(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.png"
    height = min(side, 60_000)
    path.write_bytes(png_header(side, height))
    assert fault_of(path) == f"is {side}x{height} pixels, must have at most 100 megapixels"


def test_slow_reading_is_ended(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "a.mp4", clips.numbered(30))
    limits = SourceLimits(frame_seconds=-1.0)
    fault = fault_of(path, SourceOptions(limits=limits))
    assert fault == "takes too long to read or decode"


def test_the_deadline_moves_with_each_frame(tmp_path: Path) -> None:
    now = [0.0]
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    file = files.GuardedFile(path.open("rb", buffering=0), 2.0, lambda: now[0])
    now[0] = 1.9
    assert file.read(1) == b"a"
    file.renew()
    now[0] = 3.8
    assert file.read(1) == b"b"
    now[0] = 4.0
    with pytest.raises(files.TooSlow):
        file.read(1)
    file.close()


@pytest.mark.slow
def test_ffmpeg_writes_nothing(tmp_path: Path) -> None:
    """A damaged file makes FFmpeg talk; nothing of that reaches stderr."""
    path = clips.write(tmp_path / "a.ts", clips.numbered(60), clips.FORMATS["h264.ts"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :: 97] = bytes(len(data[len(data) // 2 :: 97]))
    path.write_bytes(data)
    code = (
        "import sys; from avatar_runtime.preparation import sources\n"
        "print(len(list(sources.open(sys.argv[1]).frames())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert int(done.stdout) > 10


@pytest.mark.slow
def test_nothing_stays_open(tmp_path: Path) -> None:
    """Descriptors and threads are the same after a refusal, a whole pass and a pass cut short."""
    good = clips.write(tmp_path / "a.mp4", clips.numbered(60))
    bad = clips.truncate(clips.write(tmp_path / "b.mp4", clips.numbered(60)), 0.5)
    list(sources.open(good).frames())

    def count() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    gc.collect()  # what earlier tests have left open is closed here, and not later
    before = count()
    for _ in range(3):
        fault_of(bad)
        list(sources.open(good).frames())
        frames = sources.open(good).frames()
        next(frames)
        del frames
    assert count() == before
