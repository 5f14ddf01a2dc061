"""Processor time of a preparation besides the model, for each kind of source.

All passes of `avatar-runtime prepare` run with the default detector and parser; the encoder returns
zeros, and no picture for silence is drawn. `stages_ms` are milliseconds of all threads a frame, as
in the report of the command. Decoders work ahead in threads, so a part of the decoding counts as
`detect`. `once_s` is the time for the table of HDR or wide colours, which is filled once a process
(a later row with the same colours only reads it) and is not in the stages. `alone_ms` is what
libraries need for a frame by themselves, in one thread: FFmpeg's decoder, the JPEG that is stored,
and one pass of the mesh; no preparation costs less. `peak_mb` is how far the anonymous memory of
the process grew at most, with that of the decoders. `jpeg_ms` is the time to encode and decode one
picture of 1920x1080 as JPEG, measured beside each row: on a busy machine all figures grow together.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import ColorTrc

from avatar_runtime.avatars import preparation
from avatar_runtime.preparation import detectors, locating, masking, pipeline, progress, sources
from avatar_runtime.preparation.detectors import mesh
from avatar_runtime.preparation.sources import colour_table
from localcluster import face_clips, preparing
from localcluster.bench import record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_runtime.preparation.source import Source

SEED: Final = 7
FRAMES: Final = 50
_FPS: Final = 25
_ROUNDS: Final = 5
_ALONE_FRAMES: Final = 25
_SAMPLE_S: Final = 0.05  # a sample costs 0.03 ms
_HDR: Final = (int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67))
_BT709: Final = 1


def main() -> int:
    """Prepare each source and write the record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.preparation", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames of a clip")
    parser.add_argument("--repeat", type=int, default=1, help="how often a video is joined")
    parser.add_argument("--bits", type=float, default=face_clips.BITS_A_PIXEL, help="a pixel")
    parser.add_argument("--only", default="", help="kinds whose name contains this text")
    options = parser.parse_args()
    torch.zeros(1)  # masks are resized by torch, which the command has loaded with the model
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for clip in face_clips.CLIPS:
            if options.only in clip.name:
                source = face_clips.write(Path(folder), clip, options.frames, SEED, options.bits)
                if clip.codec and options.repeat > 1:
                    source = face_clips.repeat(source, options.repeat)
                rows.append(measure(source, clip, Path(folder) / "made"))
                print(rows[-1], flush=True)
    record.write(options.out, SEED, "none", {"rows": rows})
    return 0


def measure(path: Path, clip: face_clips.Clip, out: Path) -> dict[str, Any]:
    """Prepare one source and return its row.

    Raises:
        RuntimeError: the clip is refused.
    """
    once_s = _fill_table(clip)
    jpeg_ms = _jpeg_ms()
    opened = sources.open(path)
    job = pipeline.Job(
        out=out,
        source=opened,
        locator=locating.DetectingLocator(detectors.open_detector(), "v15"),
        masker=masking.ParsedMasks(parser=detectors.open_parser(), mode="jaw"),
        model=preparing.ZeroModel(),
        options=pipeline.Options(consent="benchmark"),
        tools={},
        open_mouths=lambda gaps: {},
        record=opened.info.record(),
    )
    with preparing.MemorySampler(every_s=_SAMPLE_S) as memory:
        report = pipeline.run(job, progress.Silent())
    if report["written"] is None:
        raise RuntimeError(f"{clip.name}: {report['sentence']}")
    frames = report["frames"]
    files = [path] if path.is_file() else list(path.iterdir())
    return {
        "source": clip.name,
        "size": f"{clip.width}x{clip.height}",
        "frames": frames,
        "mbit_a_second": round(sum(f.stat().st_size for f in files) * 8 * _FPS / frames / 1e6, 1),
        "prepared": f"{opened.info.width}x{opened.info.height}",
        "ms_without_model": report["without_model_cpu_ms"],
        "stages_ms": {name: stage["cpu"] for name, stage in report["timings_ms"].items()},
        "alone_ms": _alone_ms(files, opened),
        "peak_mb": round((memory.peak - memory.base) / 1e6, 1),
        "once_s": once_s,
        "jpeg_ms": jpeg_ms,
    }


def _alone_ms(files: Sequence[Path], source: Source) -> dict[str, float]:
    """Return what the decoder, one JPEG and one pass of the mesh need by themselves."""
    frame = next(iter(source.frames()))
    height, width = frame.shape[:2]
    square = mesh.Roi(width / 2, height / 2, height / 2, 0.0)
    model = mesh.FaceMesh()
    with pipeline.one_opencv_thread():
        return {
            "decode": _decode_alone_ms(sorted(files)[:_ALONE_FRAMES]),
            "jpeg": _median_ms(lambda: preparation.picture_file(frame, "jpeg")),
            "mesh": _median_ms(lambda: model.locate(frame, square)),
        }


def _decode_alone_ms(files: Sequence[Path]) -> float:
    """Return the time of FFmpeg's decoder in one thread, without opening and conversion."""
    with ExitStack() as stack:
        opened = [stack.enter_context(av.open(str(path))) for path in files]
        packets = [p for one in opened for p in islice(one.demux(video=0), _ALONE_FRAMES) if p.size]
        decoder: Any = opened[0].streams.video[0].codec_context
        decoder.thread_count = 1
        began = time.process_time()
        frames = sum(len(decoder.decode(packet)) for packet in [*packets, None])
        return round(1000 * (time.process_time() - began) / frames, 1)


def _median_ms(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return round(1000 * median(spent), 1)


def _fill_table(clip: face_clips.Clip) -> float:
    """Fill the table for the colours of a clip, which stays, and return the seconds it took."""
    transfer, primaries = clip.colours["transfer"], clip.colours["primaries"]
    if not clip.codec or primaries == _BT709:
        return 0.0
    target = int(ColorTrc.IEC61966_2_1) if transfer in _HDR else transfer
    began = time.process_time()
    colour_table.ColourTable(transfer, primaries, target, (clip.width, clip.height))
    return round(time.process_time() - began, 2)


def _jpeg_ms() -> float:
    picture = np.random.default_rng(SEED).integers(100, 120, (1080, 1920, 3), np.uint8)
    return _median_ms(lambda: cv2.imdecode(cv2.imencode(".jpg", picture)[1], cv2.IMREAD_COLOR))


if __name__ == "__main__":
    sys.exit(main())
