"""The parser of Avatars: what it reads, and what it says of wrong fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.resources.avatar import KeySource, UrlSource, VolumeImageSource
from avatar_operator.core.resources.sources import ClaimSource, HostPathSource, ImageSource
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from tests.operator.conftest import Make

SHA = "0123456789abcdef" * 4
URL = "https://media.example.com:8443/faces/anna.mp4?v=2"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            {"persistentVolumeClaim": {"claimName": "films", "path": "/a/b.mp4"}},
            ClaimSource("films", "a/b.mp4"),
        ),
        (
            {"configMap": {"name": "faces", "key": "a.jpg"}},
            KeySource("ConfigMap", "faces", "a.jpg"),
        ),
        ({"secret": {"name": "faces", "key": "a.jpg"}}, KeySource("Secret", "faces", "a.jpg")),
        ({"url": {"url": URL, "sha256": SHA}}, UrlSource(URL, SHA)),
        (
            {"image": {"reference": "faces:1", "path": "anna"}},
            VolumeImageSource("faces:1", "IfNotPresent", "anna"),
        ),
    ],
    ids=["claim", "config-map", "secret", "url", "image"],
)
def test_each_kind_of_source_is_read(make: Make, source: Any, expected: object) -> None:
    assert make.avatar(source=source).source == expected


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://A.example./x", "a.example"),
        ("http://a.example:80", "a.example"),
        ("https://[2001:DB8::1]:443/x", "2001:db8::1"),
        ("https://a.example?x=/b.example", "a.example"),
    ],
)
def test_the_host_of_a_url_is_found(url: str, host: str) -> None:
    assert UrlSource(url, SHA).host == host


def test_what_is_not_set_has_a_default(make: Make) -> None:
    avatar = make.avatar()
    assert avatar.model == ImageSource("/opt/avatar/models/demo")
    assert (avatar.version, avatar.device, avatar.options) == ("v15", "auto", ())
    assert (avatar.retries, avatar.timeout_s, avatar.ttl_s) == (2, 3600, 3600)
    assert avatar.folder == "anna"


def test_options_are_those_of_the_command(make: Make) -> None:
    avatar = make.avatar(
        model={"version": "v1"},
        storage={"persistentVolumeClaim": {"claimName": "faces", "path": "team/"}},
        preparation={
            "device": "cpu",
            "start": "1.5",
            "end": "20",
            "crop": {"left": 1, "top": 2, "width": 300, "height": 400},
            "maskMode": "neck",
            "upperBoundary": "0.45",
            "cheekWidth": 0,
            "bboxShift": -7,
            "background": "#00ff00",
            "pixels": "png",
            "faceResize": "lanczos",
            "detectors": {"dwpose": "dw/a.onnx", "faceParser": "79999_iter.pth"},
        },
    )
    assert [f"{option}={value}" for option, value in avatar.options] == [
        "--start=1.5",
        "--end=20",
        "--crop=1,2,300,400",
        "--mask-mode=neck",
        "--upper-boundary=0.45",
        "--cheek-width=0",
        "--bbox-shift=-7",
        "--background=#00ff00",
        "--pixels=png",
        "--face-resize=lanczos",
    ]
    assert avatar.detectors == (("--dwpose", "dw/a.onnx"), ("--face-parser", "79999_iter.pth"))
    assert avatar.folder == "team/anna"


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no-source": ({"source": {}}, "spec.source: exactly one of persistentVolumeClaim"),
    "two-sources": (
        {"source": {"secret": {"name": "a", "key": "b"}, "url": {"url": URL, "sha256": SHA}}},
        "spec.source: exactly one of persistentVolumeClaim",
    ),
    "path-outside": (
        {"source": {"persistentVolumeClaim": {"claimName": "a", "path": "../b"}}},
        'spec.source.persistentVolumeClaim.path is "../b"',
    ),
    "path-like-an-option": (
        {"source": {"persistentVolumeClaim": {"claimName": "a", "path": "-x"}}},
        'spec.source.persistentVolumeClaim.path is "-x"',
    ),
    "no-claim": (
        {"source": {"persistentVolumeClaim": {"path": "b"}}},
        "spec.source.persistentVolumeClaim.claimName is missing",
    ),
    "key-with-a-slash": (
        {"source": {"secret": {"name": "a", "key": "b/c"}}},
        'spec.source.secret.key is "b/c"',
    ),
    "url-with-a-password": (
        {"source": {"url": {"url": "https://a:b@c.example/d", "sha256": SHA}}},
        "spec.source.url.url is",
    ),
    "other-scheme": (
        {"source": {"url": {"url": "file:///etc/passwd", "sha256": SHA}}},
        "spec.source.url.url is",
    ),
    "no-checksum": ({"source": {"url": {"url": URL}}}, "spec.source.url.sha256 is missing"),
    "short-checksum": (
        {"source": {"url": {"url": URL, "sha256": "ab"}}},
        'spec.source.url.sha256 is "ab", must be 64 lowercase hexadecimal digits',
    ),
    "no-consent": ({"consent": None}, "spec.consent is missing"),
    "blank-consent": ({"consent": " \n"}, 'spec.consent is " \\n"'),
    "consent-like-an-option": ({"consent": "--force"}, 'spec.consent is "--force"'),
    "two-lines-of-disclosure": ({"disclosure": "a\nb"}, "spec.disclosure is"),
    "long-disclosure": ({"disclosure": "a" * 101}, "at most 100 characters in one line"),
    "no-storage": ({"storage": {}}, "spec.storage: exactly one of persistentVolumeClaim"),
    "end-before-start": (
        {"preparation": {"start": "5", "end": "5.000"}},
        "spec.preparation.end must be greater than start",
    ),
    "start-in-words": ({"preparation": {"start": "soon"}}, 'spec.preparation.start is "soon"'),
    "ratio-above-one": (
        {"preparation": {"upperBoundary": "1.5"}},
        'spec.preparation.upperBoundary is "1.5"',
    ),
    "half-a-crop": ({"preparation": {"crop": {"left": 0}}}, "spec.preparation.crop.top is missing"),
    "shift-of-v15": (
        {"preparation": {"bboxShift": 3}},
        "spec.preparation.bboxShift must be 0 unless spec.model.version is v1",
    ),
    "one-detector": (
        {"preparation": {"detectors": {"dwpose": "a.onnx"}}},
        "dwpose and faceParser must be set together",
    ),
    "detector-outside": (
        {"preparation": {"detectors": {"dwpose": "/a", "faceParser": "b"}}},
        'spec.preparation.detectors.dwpose is "/a", must be a path inside the model folder',
    ),
    "too-many-retries": ({"retries": 11}, "spec.retries is 11, must be a whole number"),
}


@pytest.mark.parametrize(("spec", "message"), FAULTS.values(), ids=FAULTS)
def test_a_wrong_field_is_named_with_its_value_and_limit(
    make: Make, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidResource) as error:
        make.avatar(**spec)
    assert message in str(error.value)


def test_only_what_changes_the_avatar_changes_its_hash(make: Make) -> None:
    first = make.avatar().spec_hash
    same: list[dict[str, Any]] = [
        {"retries": 5},
        {"timeoutSeconds": 90},
        {"placement": {"gpuClasses": ["l4"]}},
        {"template": {"image": "other"}},
        {"preparation": {"device": "cpu"}},
    ]
    assert {make.avatar(**spec).spec_hash for spec in same} == {first}
    other: list[dict[str, Any]] = [
        {"consent": "Ben"},
        {"disclosure": "AI"},
        {"model": {"source": {"hostPath": {"path": "/opt/avatar/models/demo"}}}},
        {"model": {"version": "v1"}},
        {"storage": {"hostPath": {"path": "/faces"}}},
        {"preparation": {"start": "1"}},
        {"source": {"secret": {"name": "a", "key": "b"}}},
        {"source": {"configMap": {"name": "a", "key": "b"}}},
    ]
    assert len({first, *(make.avatar(**spec).spec_hash for spec in other)}) == len(other) + 1


def test_an_annotation_prepares_an_avatar_again(make: Make) -> None:
    from avatar_operator.core.resources.avatar import parse_avatar

    body = make.avatar_body()
    first = parse_avatar(body).spec_hash
    body["metadata"]["annotations"] = {"avatar.musetalk.io/prepare-again": "2"}
    assert parse_avatar(body).spec_hash != first


def test_a_host_path_is_a_storage(make: Make) -> None:
    avatar = make.avatar(storage={"hostPath": {"path": "/faces"}})
    assert avatar.storage == HostPathSource("/faces")
    assert avatar.folder == "anna"
