"""Avatar: its type and its parser.

The CRD rejects the same specs before they are stored. This parser is the second check.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_operator import names
from avatar_operator.core.resources.fields import parse_identity, read_annotations
from avatar_operator.core.resources.placement import Placement, parse_placement
from avatar_operator.core.resources.service import (
    DEMO_MODEL,
    ServiceKey,
    Template,
    check_name,
    parse_disclosure,
    parse_template,
)
from avatar_operator.core.resources.sources import ClaimSource, HostPathSource, Source, parse_source
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.fields import Fault

MAX_CONSENT: Final = 1000
LONGEST_S: Final = 86_400
LONGEST_TTL_S: Final = 7 * 86_400

_PATH: Final = r"\A(?!-)((?!\.\.).){1,512}\Z"
_PATH_LIMIT: Final = "a path without '..' that does not start with '-'"
_IN_MODEL: Final = r"\A(?![-/])((?!\.\.).){1,512}\Z"
_KEY: Final = r"\A[_a-zA-Z0-9][-._a-zA-Z0-9]{0,252}\Z"
_URL: Final = r"\Ahttps?://[^/?#@\\ ]+([/?][^# ]*)?\Z"
_SECONDS: Final = r"\A[0-9]+([.][0-9]{1,3})?\Z"
_RATIO: Final = r"\A(0([.][0-9]{1,4})?|1([.]0{1,4})?)\Z"
_KINDS: Final = ("persistentVolumeClaim", "configMap", "secret", "url", "image")


@dataclass(frozen=True, slots=True)
class KeySource:
    """One key of a ConfigMap or a Secret."""

    kind: str
    """`ConfigMap` or `Secret`."""
    name: str
    key: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}, key {self.key}"


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file that the Job downloads."""

    url: str
    sha256: str

    def __str__(self) -> str:
        return self.url

    @property
    def host(self) -> str:
        """The host in lowercase, without the port."""
        authority = re.split(r"[/?]", self.url.partition("://")[2], maxsplit=1)[0]
        if authority.startswith("["):
            return authority.partition("]")[0].lstrip("[").lower()
        return authority.partition(":")[0].lower().rstrip(".")


@dataclass(frozen=True, slots=True)
class VolumeImageSource:
    """A file or folder in an OCI image."""

    reference: str
    pull_policy: str
    path: str

    def __str__(self) -> str:
        return f"{self.path} in image {self.reference}"


AvatarSource = ClaimSource | KeySource | UrlSource | VolumeImageSource
Storage = ClaimSource | HostPathSource


@dataclass(frozen=True, slots=True)
class Avatar:
    """An Avatar: its desired state."""

    key: ServiceKey
    uid: str
    generation: int
    source: AvatarSource
    model: Source
    version: str
    storage: Storage
    consent: str
    disclosure: str
    device: str
    """`auto`, `gpu` or `cpu`."""
    options: tuple[tuple[str, str], ...]
    """Options of `avatar-runtime prepare` with their values, in the order of the command."""
    detectors: tuple[tuple[str, str], ...]
    """Options that name files, with paths relative to the model folder."""
    placement: Placement
    template: Template
    retries: int
    timeout_s: int
    ttl_s: int
    again: str
    """Value of the annotation that prepares the avatar again."""

    @property
    def spec_hash(self) -> str:
        """A hash of everything that determines the prepared avatar."""
        parts = (
            self.source,
            self.model,
            self.version,
            self.storage,
            self.consent,
            self.disclosure,
            self.options,
            self.detectors,
            self.again,
        )
        text = json.dumps(parts, default=_plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """The folder of the avatar, relative to the root of its volume."""
        parent = self.storage.path if isinstance(self.storage, ClaimSource) else ""
        return f"{parent}/{self.key.name}".lstrip("/")


def _plain(value: object) -> object:
    assert dataclasses.is_dataclass(value)
    assert not isinstance(value, type)
    return {"": type(value).__name__, **dataclasses.asdict(value)}


def parse_avatar(body: Mapping[str, object]) -> Avatar:
    """Return the avatar that a body describes.

    Raises:
        InvalidResource: at least one field is wrong; the error lists all of them.
    """
    faults: list[Fault] = []
    identity = parse_identity(body, faults)
    check_name(identity.name, faults, "Jobs")
    spec = Fields(body.get("spec"), "spec", faults)
    model, preparation = spec.child("model"), spec.child("preparation")
    version = model.one_of("version", "v15", ("v1", "v15"))
    if preparation.integer("bboxShift", 0, -64, 64) and version != "v1":
        preparation.add_rule("bboxShift", "must be 0 unless spec.model.version is v1")
    avatar = Avatar(
        key=ServiceKey(identity.namespace, identity.name),
        uid=identity.uid,
        generation=identity.generation,
        source=_source(spec),
        model=parse_source(model, "source", DEMO_MODEL),
        version=version,
        storage=parse_storage(spec),
        consent=_consent(spec),
        disclosure=parse_disclosure(spec),
        device=preparation.one_of("device", "auto", ("auto", "gpu", "cpu")),
        options=_options(preparation),
        detectors=_detectors(preparation.child("detectors")),
        placement=parse_placement(spec.child("placement")),
        template=parse_template(spec.child("template")),
        retries=spec.integer("retries", 2, 0, 10),
        timeout_s=spec.integer("timeoutSeconds", 3600, 60, LONGEST_S),
        ttl_s=spec.integer("ttlSecondsAfterFinished", 3600, 0, LONGEST_TTL_S),
        again=read_annotations(body).get(names.ANNOTATION_PREPARE_AGAIN, ""),
    )
    if faults:
        raise InvalidResource(names.AVATAR_KIND, str(avatar.key), faults)
    return avatar


def parse_storage(spec: Fields) -> Storage:
    """Return the volume with the avatars; faults are recorded in `spec`."""
    fields = spec.child("storage")
    if fields.has("persistentVolumeClaim") == fields.has("hostPath"):
        spec.add_rule("storage", "exactly one of persistentVolumeClaim and hostPath must be set")
        return HostPathSource("/")
    found = parse_source(spec, "storage", "")
    assert isinstance(found, ClaimSource | HostPathSource)
    return found


def _source(spec: Fields) -> AvatarSource:
    fields = spec.child("source")
    kinds = [kind for kind in _KINDS if fields.has(kind)]
    if len(kinds) != 1:
        spec.add_rule("source", f"exactly one of {', '.join(_KINDS[:-1])} and image must be set")
        return VolumeImageSource("", "", "")
    (kind,) = kinds
    chosen = fields.child(kind)
    if kind in ("configMap", "secret"):
        chosen.required("name", "the name of an object")
        chosen.required("key", "the key of a file")
        limit = "letters, digits, '-', '_' and '.', and must not start with '-' or '.'"
        key = chosen.text("key", pattern=_KEY, limit=limit)
        return KeySource(f"{kind[0].upper()}{kind[1:]}", chosen.object_name("name"), key)
    if kind == "url":
        return _url(chosen)
    chosen.required("path", "the path of a file or folder")
    path = chosen.text("path", pattern=_PATH, limit=_PATH_LIMIT).strip("/")
    if kind == "persistentVolumeClaim":
        chosen.required("claimName", "the name of a PersistentVolumeClaim")
        return ClaimSource(chosen.object_name("claimName"), path)
    chosen.required("reference", "the reference of an image")
    policy = chosen.one_of("pullPolicy", "IfNotPresent", ("Always", "IfNotPresent", "Never"))
    return VolumeImageSource(chosen.text("reference"), policy, path)


def _url(fields: Fields) -> UrlSource:
    fields.required("url", "an http or https URL")
    fields.required("sha256", "the SHA-256 of the file")
    url = fields.text(
        "url", pattern=_URL, limit="an http or https URL without user, password and fragment"
    )
    limit = "64 lowercase hexadecimal digits"
    return UrlSource(url, fields.text("sha256", pattern=r"\A[0-9a-f]{64}\Z", limit=limit))


def _consent(spec: Fields) -> str:
    limit = f"text of at most {MAX_CONSENT} characters that does not start with '-'"
    if not spec.required("consent", limit):
        return ""
    pattern = rf"\A(?!-)(?=[\s\S]*\S)[\s\S]{{1,{MAX_CONSENT}}}\Z"
    return spec.text("consent", pattern=pattern, limit=limit)


def _options(fields: Fields) -> tuple[tuple[str, str], ...]:
    """Return the options of the command; one that is not set has the default of the command."""
    seconds = "a number of seconds in quotes"
    start = fields.text("start", pattern=_SECONDS, limit=seconds)
    end = fields.text("end", pattern=_SECONDS, limit=seconds)
    if end and float(end) <= float(start or 0):
        fields.add_rule("end", "must be greater than start")
    shift = fields.integer("bboxShift", 0, -64, 64)
    width = fields.optional_integer("cheekWidth", 0, 256)
    ratio = "a number from 0 to 1 in quotes"
    colour = "a colour such as #00ff00"
    found = (
        ("--start", start),
        ("--end", end),
        ("--crop", _crop(fields) if fields.has("crop") else ""),
        ("--mask-mode", fields.one_of("maskMode", "", ("jaw", "raw", "neck"))),
        ("--upper-boundary", fields.text("upperBoundary", pattern=_RATIO, limit=ratio)),
        ("--cheek-width", "" if width is None else str(width)),
        ("--bbox-shift", str(shift) if shift else ""),
        ("--background", fields.text("background", pattern=r"\A#[0-9a-f]{6}\Z", limit=colour)),
        ("--pixels", fields.one_of("pixels", "", ("jpeg", "png"))),
        ("--face-resize", fields.one_of("faceResize", "", ("bilinear", "lanczos"))),
    )
    return tuple((option, value) for option, value in found if value)


def _crop(fields: Fields) -> str:
    crop = fields.child("crop")
    for name in ("left", "top", "width", "height"):
        crop.required(name, "a number of pixels")
    corner = [crop.integer(name, 0, 0, 16_384) for name in ("left", "top")]
    size = [crop.integer(name, 16, 16, 16_384) for name in ("width", "height")]
    return ",".join(map(str, corner + size))


def _detectors(fields: Fields) -> tuple[tuple[str, str], ...]:
    limit = "a path inside the model folder"
    pose = fields.text("dwpose", pattern=_IN_MODEL, limit=limit)
    parser = fields.text("faceParser", pattern=_IN_MODEL, limit=limit)
    if fields.has("dwpose") != fields.has("faceParser"):
        fields.add_rule(None, "dwpose and faceParser must be set together")
    return (("--dwpose", pose), ("--face-parser", parser)) if pose and parser else ()
