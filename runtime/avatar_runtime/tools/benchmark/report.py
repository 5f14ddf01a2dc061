"""The benchmark's document for people: a table and a picture."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_STAGES: Final[Mapping[str, str]] = {
    "audio": "#8c6bb1",
    "unet": "#2b8cbe",
    "vae": "#7bccc4",
    "compose": "#fdae61",
    "encode": "#d7301f",
}
_WIDTH: Final = 960
_HEIGHT: Final = 430
_TOP: Final = 84
_BASE: Final = 370
_PANELS: Final = ((64, 456), (540, 936))
"""Left and right edge of the two charts, px."""


def table(document: Mapping[str, Any]) -> str:
    """Return the document as text."""
    columns = ("batch", "unet_ms", "vae_ms", "compose_ms", "encode_ms", "total_ms", "frames_per_s")
    lines = ["".join(f"{column:>14}" for column in columns)]
    lines += ["".join(f"{row[column]:>14}" for column in columns) for row in document["buckets"]]
    lines += _sentences(document)
    for row in document.get("autograd") or ():
        shown = {k: "does not fit" if row[k] is None else f"{row[k]} MiB" for k in row}
        lines.append(
            f"batch {row['batch']}: {shown['inference_mib']} over the weights, "
            f"{shown['autograd_mib']} with gradients left on"
        )
    return "\n".join(lines)


def _sentences(document: Mapping[str, Any]) -> list[str]:
    ratio = document["recipe_ratio"]
    sentences = [
        f"{document['sessions']} sessions make {document['recipe_fps']} frames/s: "
        f"{ratio['of_model']:.1%} of UNet and decoder alone ({document['model_only_fps']}), "
        f"{ratio['of_networks']:.1%} of these with the audio encoder "
        f"({document['networks_fps']})",
        f"first frame p95 {document['first_frame_ms']['p95']} ms, "
        f"loop lag p99.9 {document['loop_lag_ms_p999']} ms, "
        f"fill {document['batch_fill_ratio']:.1%}, "
        f"{document['scheduler_decisions_per_s']} scheduling decisions/s",
    ]
    if document["gflop_per_frame"] is not None:
        share = "peak unknown" if document["mfu"] is None else f"MFU {document['mfu']:.1%}"
        sentences.append(f"{document['gflop_per_frame']} GFLOP a frame, {share}")
    return sentences


def svg(document: Mapping[str, Any]) -> str:
    """Return the document as an SVG picture: time a frame by stage, and frames a second."""
    model = document.get("model", document["preset"])
    title = (
        f"Engine on {document['device']}: {model}, seeded weights of preset {document['preset']}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_PANELS[0][0], 24, title, size=16),
        *_times(document),
        *_speeds(document),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _times(document: Mapping[str, Any]) -> list[str]:
    """Return the left chart: milliseconds a frame, stacked by stage, for each bucket."""
    left, right = _PANELS[0]
    rows = document["buckets"]
    stacks = [{s: row[f"{s}_ms"] / row["batch"] for s in _STAGES} for row in rows]
    top = _ceiling(max(sum(stack.values()) for stack in stacks))
    parts = [_text(left, 48, "ms a frame, by stage"), *_axis(left, right, top)]
    at = left
    for stage, colour in _STAGES.items():
        parts += [f'<rect x="{at}" y="58" width="10" height="10" fill="{colour}"/>']
        parts += [_text(at + 14, 67, stage)]
        at += 72
    for x, width, row, stack in _slots(left, right, rows, stacks):
        y = float(_BASE)
        for stage, value in stack.items():
            height = (_BASE - _TOP) * value / top
            y -= height
            parts.append(
                f'<rect class="{stage}" x="{x:.1f}" y="{y:.2f}" width="{width:.1f}" '
                f'height="{height:.2f}" fill="{_STAGES[stage]}"/>'
            )
        parts.append(_text(x + width / 2, _BASE + 16, str(row["batch"]), anchor="middle"))
    parts.append(_text((left + right) / 2, _BASE + 38, "frames in the batch", anchor="middle"))
    return parts


def _speeds(document: Mapping[str, Any]) -> list[str]:
    """Return the right chart: frames a second of each bucket, of the model and of sessions."""
    left, right = _PANELS[1]
    rows = document["buckets"]
    lines = {
        f"model alone {document['model_only_fps']}": (document["model_only_fps"], "#2b8cbe"),
        f"{document['sessions']} sessions {document['recipe_fps']}": (
            document["recipe_fps"],
            "#d7301f",
        ),
    }
    values = [row["frames_per_s"] for row in rows]
    top = _ceiling(max(*values, *(value for value, _ in lines.values())))
    parts = [_text(left, 48, "frames a second"), *_axis(left, right, top)]
    for x, width, row, value in _slots(left, right, rows, values):
        height = (_BASE - _TOP) * value / top
        parts.append(
            f'<rect class="speed" x="{x:.1f}" y="{_BASE - height:.2f}" width="{width:.1f}" '
            f'height="{height:.2f}" fill="#a8ddb5"/>'
        )
        parts.append(_text(x + width / 2, _BASE + 16, str(row["batch"]), anchor="middle"))
    for i, (name, (value, colour)) in enumerate(lines.items()):
        y = _BASE - (_BASE - _TOP) * value / top
        parts.append(
            f'<line class="level" x1="{left}" x2="{right}" y1="{y:.2f}" y2="{y:.2f}" '
            f'stroke="{colour}" stroke-width="2" stroke-dasharray="{6 - 3 * i} 3"/>'
        )
        parts.append(
            f'<line x1="{left + 190 * i}" x2="{left + 20 + 190 * i}" y1="63" y2="63" '
            f'stroke="{colour}" stroke-width="2" stroke-dasharray="{6 - 3 * i} 3"/>'
        )
        parts.append(_text(left + 26 + 190 * i, 67, name))
    parts.append(_text((left + right) / 2, _BASE + 38, "frames in the batch", anchor="middle"))
    return parts


def _slots(
    left: int, right: int, rows: Sequence[Any], values: Sequence[Any]
) -> Iterator[tuple[float, float, Any, Any]]:
    """Give each row its bar: x, width, the row and its value."""
    pitch = (right - left) / len(rows)
    width = min(48.0, 0.7 * pitch)
    for i, (row, value) in enumerate(zip(rows, values, strict=True)):
        yield left + pitch * (i + 0.5) - width / 2, width, row, value


def _axis(left: int, right: int, top: float) -> list[str]:
    parts = []
    for quarter in range(5):
        y = _BASE - (_BASE - _TOP) * quarter / 4
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(_text(left - 8, y + 4, f"{top * quarter / 4:g}", anchor="end"))
    return parts


def _ceiling(value: float) -> float:
    """Return the next of 1, 2, 4, 6, 8, 10 times a power of ten: quarters of it read well."""
    unit = 10.0 ** floor(log10(value))
    return next(step * unit for step in (1, 2, 4, 6, 8, 10) if step * unit >= value)


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    shown = escape(text)
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}">{shown}</text>'
