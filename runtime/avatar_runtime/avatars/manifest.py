"""The manifest of a prepared avatar: its fields, their limits, and how the file is read.

A stranger may have written the file, so each field is checked against a limit before anything is
allocated with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import labels
from avatar_runtime import errors
from avatar_runtime.avatars import field_rules, masks

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = 2
SCHEMAS: Final = (1, 2)
PIXELS: Final = ("jpeg", "png")
VERSIONS: Final = ("v1", "v15")
FACE_RESIZES: Final = ("bilinear", "lanczos")
MASK_MODES: Final = (*masks.MODES, "ellipse")
MAX_SIDE: Final = 8192
"""Width and height of a picture at most, pixels: twice 4K."""
MAX_FRAMES: Final = 100_000
"""Frames of an avatar at most: over an hour at 25 fps."""
MAX_FPS: Final = 120
_MAX_MANIFEST_BYTES: Final = 1 << 20
_SCHEMA_2_FIELDS: Final = (
    "consent", "disclosure", "source", "face_resize", "cheek_width", "background",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The inputs and tools of an avatar; `manifest.json` without the content hash."""

    model_version: str
    """`v1` or `v15`: weights and face boxes differ."""
    vae_hash: str
    """Hash of the VAE that made the latents; must equal that of the served model."""
    fps: int
    """Frames of the source per second of its timeline."""
    width: int
    height: int
    frames: int
    crop_size: int
    """Side of the square that the model generates, pixels."""
    bbox_shift: int = 0
    extra_margin: int = 10
    mask_mode: str = "jaw"
    blur_ratio: float = 0.1
    upper_boundary_ratio: float = 0.5
    invalid_frames: tuple[int, ...] = ()
    """Frames without a usable face, ascending. The source picture is shown for them."""
    pixels: str = "jpeg"
    """How the source frames are stored: `jpeg` or `png`, one file after the other."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that made the avatar."""
    consent: str = ""
    """Who allowed the use of the person's face, and how. Empty for an avatar of schema 1."""
    disclosure: str = ""
    """Text of the visible label that says that the video is generated; empty for no label."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The file that was prepared: name, sha256, kind, width, height, fps, start, end, crop."""
    face_resize: str = "bilinear"
    """How the generated face is resized to the face box, one of `FACE_RESIZES`."""
    cheek_width: int = 90
    """Distance from the middle beyond which the mask mode `jaw` treats a column as cheek."""
    background: str = ""
    """Colour that replaced transparent pixels, `#rrggbb`; empty if there were none."""
    schema: int = SCHEMA

    def canonical(self) -> dict[str, Any]:
        """Return the fields of the manifest's schema: what the content hash covers."""
        document = asdict(self)
        if self.schema == 1:
            for name in _SCHEMA_2_FIELDS:
                del document[name]
        return document


@dataclass(frozen=True, slots=True)
class AvatarInfo:
    """What a session needs to know of an avatar."""

    name: str
    width: int
    height: int
    fps: int
    frames: int
    content_hash: str
    disclosure: str = ""
    """Text of the visible label; empty for no label."""
    has_alpha: bool = False
    """Whether the avatar can be shown over any background."""

    @property
    def key(self) -> str:
        """The name of this version of the avatar, unlike that of any other version."""
        return f"{self.name}@{self.content_hash[:16]}"


def read(folder: Path) -> tuple[str, Manifest]:
    """Return the content hash and the manifest of an avatar's folder.

    Raises:
        AssetError: the file is missing, too large, not JSON, or has a wrong field.
    """
    path = folder / "manifest.json"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
        if len(text) > _MAX_MANIFEST_BYTES:
            raise ValueError(f"it has more than {_MAX_MANIFEST_BYTES} bytes")
        document = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (OSError, ValueError, RecursionError) as error:
        raise errors.AssetError(str(folder), f"manifest.json is unreadable: {error}") from error
    try:
        return parse(document)
    except ValueError as error:
        raise errors.AssetError(str(folder), f"manifest.json: {error}") from error


def parse(document: object) -> tuple[str, Manifest]:
    """Return the content hash and the manifest of a JSON document.

    Raises:
        ValueError: a field is missing, unknown or wrong; names the field, value and limit.
    """
    if not isinstance(document, dict):
        raise ValueError("must be a JSON object")
    given = dict(document)
    schema = given.get("schema", 1)
    if type(schema) is not int or schema not in SCHEMAS:
        known = " and ".join(map(str, SCHEMAS))
        raise ValueError(f"schema is {field_rules.shown(schema)}, this runtime reads {known}")
    given["schema"] = schema
    content_hash = given.pop("content_hash", None)
    if not (isinstance(content_hash, str) and re.fullmatch("[0-9a-f]{64}", content_hash)):
        raise ValueError(
            f"content_hash is {field_rules.shown(content_hash)}, must be 64 hexadecimal digits"
        )
    names = {f.name for f in fields(Manifest)}
    names -= set(_SCHEMA_2_FIELDS) if schema == 1 else set()
    if unknown := sorted(given.keys() - names):
        raise ValueError(f"field {field_rules.shown(unknown[0])} is not a field of schema {schema}")
    required = ("model_version", "vae_hash", "fps", "width", "height", "frames", "crop_size")
    if missing := [name for name in required if name not in given]:
        raise ValueError(f"field {missing[0]} is missing")
    if isinstance(given.get("invalid_frames"), list):
        given["invalid_frames"] = tuple(given["invalid_frames"])
    manifest = Manifest(**given)
    check(manifest)
    return content_hash, manifest


def check(manifest: Manifest) -> None:
    """Check each field against its limits.

    Raises:
        ValueError: a field is wrong; names the field, its value and the limit.
    """
    for name, (is_valid, expected) in _RULES.items():
        value = getattr(manifest, name)
        if not is_valid(value):
            raise ValueError(f"{name} is {field_rules.shown(value)}, must be {expected}")
    frames = manifest.invalid_frames
    if frames and frames[-1] >= manifest.frames:
        limit = f"the avatar has {_count(manifest.frames)}"
        raise ValueError(f"invalid_frames contains {frames[-1]}, {limit}")


_RULES: Final[Mapping[str, field_rules.Rule]] = {
    "schema": (lambda value: value in SCHEMAS, "1 or 2"),
    "model_version": field_rules.choice(VERSIONS),
    "vae_hash": field_rules.text(128),
    "fps": field_rules.integer(1, MAX_FPS),
    "width": field_rules.integer(16, MAX_SIDE),
    "height": field_rules.integer(16, MAX_SIDE),
    "frames": field_rules.integer(1, MAX_FRAMES),
    "crop_size": field_rules.integer(8, 2048),
    "bbox_shift": field_rules.integer(-1000, 1000),
    "extra_margin": field_rules.integer(0, 1000),
    "mask_mode": field_rules.choice(MASK_MODES),
    "blur_ratio": field_rules.ratio(0, 1),
    "upper_boundary_ratio": field_rules.ratio(0, 1),
    "invalid_frames": (field_rules.is_ascending, "a list of ascending frame numbers from 0"),
    "pixels": field_rules.choice(PIXELS),
    "tools": (field_rules.is_text_mapping, "an object of text values"),
    "consent": (field_rules.is_note, f"text of at most {field_rules.MAX_TEXT} characters"),
    "disclosure": field_rules.text(labels.MAX_DISCLOSURE),
    "source": (
        lambda value: isinstance(value, Mapping) and field_rules.is_plain(value),
        "an object of plain JSON values",
    ),
    "face_resize": field_rules.choice(FACE_RESIZES),
    "cheek_width": field_rules.integer(0, 256),
    "background": (
        lambda value: isinstance(value, str) and re.fullmatch("(#[0-9a-f]{6})?", value) is not None,
        "#rrggbb in lowercase, or empty",
    ),
}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {field_rules.shown(twice)} is given twice")
    return document


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _count(frames: int) -> str:
    return f"{frames} frame" if frames == 1 else f"{frames} frames"
