"""Avatars on the real control plane: from `kubectl apply` to sessions, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import json
import threading
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import pytest
import pytest_asyncio
import yaml

from localcluster import waiting
from localcluster.fakes import callers
from localcluster.release import all_served, condition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

PREPARE_S: Final = 240.0  # torch starts, and a crowded machine prepares a photo
FACES: Final = {"persistentVolumeClaim": {"claimName": "faces"}}
CONSENT: Final = "NASA portrait S93-38679, public domain; used for a test"
GPU: Final = {"gpuClasses": ["rtx-4090"]}
FINALIZER: Final = "avatar.musetalk.io/in-use"


def claim(name: str, folder: Path) -> list[dict[str, Any]]:
    """Return a volume of this machine and a claim that is bound to it."""
    size = {"storage": "1Gi"}
    modes = ["ReadWriteMany"]
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{name}-{folder.name}"[:63].rstrip("-")},
            "spec": {
                "capacity": size,
                "accessModes": modes,
                "hostPath": {"path": str(folder)},
                "storageClassName": "",
                "claimRef": {"name": name, "namespace": folder.name},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": modes,
                "storageClassName": "",
                "resources": {"requests": size},
            },
        },
    ]


class Studio:
    """A namespace with a volume for avatars and one with sources."""

    def __init__(self, space: Space, folder: Path) -> None:
        self.space = space
        self.faces = folder / "faces" / space.name
        self.films = folder / "films" / space.name

    async def open(self) -> None:
        bodies = []
        for name, folder in (("faces", self.faces), ("films", self.films)):
            folder.mkdir(parents=True)
            bodies += claim(name, folder)
        await self.space.kubectl_apply(yaml.safe_dump_all(bodies))

    async def apply(self, name: str, **spec: Any) -> None:
        body = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "Avatar",
            "metadata": {"name": name},
            "spec": {"storage": FACES, "consent": CONSENT, **spec},
        }
        await self.space.kubectl_apply(yaml.safe_dump(body))

    async def avatar(self, name: str) -> dict[str, Any]:
        return dict(json.loads(await self.space.kubectl("get", "avatar", name, "-o", "json")))

    async def until(self, name: str, kind: str, status: str, within_s: float = 60) -> Any:
        """Wait until a condition of the current generation has a status; return it."""

        def holds(avatar: dict[str, Any]) -> bool:
            seen = avatar.get("status", {})
            current = seen.get("observedGeneration") == avatar["metadata"]["generation"]
            return current and condition(avatar, kind).get("status") == status

        what = f"{kind} of {name} is {status}"
        found = await waiting.until(lambda: self.avatar(name), holds, what, within_s)
        return condition(found, kind)


@pytest_asyncio.fixture(loop_scope="session")
async def studio(space: Space, tmp_path: Path) -> AsyncIterator[Studio]:
    """Give a studio; when the test ends, its avatars go after the services that name them."""
    opened = Studio(space, tmp_path)
    await opened.open()
    yield opened
    await space.kubectl("delete", "avs", "--all", "--timeout=120s")
    profiles = await space.kubectl("get", "gpuprofiles", "-o", "name")
    await space.kubectl("delete", "avatars", "--all", "--timeout=60s")
    assert await space.kubectl("get", "gpuprofiles", "-o", "name") == profiles


def photo(path: Path, *, face: bool = True, tint: int = 0) -> Path:
    """Write a photograph, or a picture without a face."""
    from skimage import data

    face_of = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)[0:300, 90:390]
    picture = cv2.resize(face_of, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    if not face:
        picture = np.full_like(picture, 90)
    picture = np.clip(picture.astype(int) + tint, 0, 255).astype(np.uint8)
    cv2.imwrite(str(path), picture)
    return path


async def test_a_photo_becomes_an_avatar_that_a_waiting_service_serves(studio: Studio) -> None:
    space = studio.space
    file = photo(studio.films / "anna.jpg")
    await space.kubectl("create", "configmap", "photos", f"--from-file=anna.jpg={file}")
    source = {"configMap": {"name": "photos", "key": "anna.jpg"}}
    # A key that is missing at first: the service waits for the avatar, and takes no GPU.
    await studio.apply(
        "anna", source={"configMap": {"name": "photos", "key": "soon.jpg"}}, retries=0
    )
    await space.apply(
        "show", avatarSource=FACES, avatars=["anna"], placement=GPU, replicas=1,
        disclosure="AI generated",
    )  # fmt: skip
    failed = await studio.until("anna", "Stalled", "True", PREPARE_S)
    assert "soon.jpg" in failed["message"]
    service = await waiting.until(
        lambda: space.service("show"),
        lambda seen: condition(seen, "AvatarsReady").get("status") == "False",
        "the service waits for its avatar",
    )
    assert condition(service, "Ready")["reason"] == "AvatarsNotReady"
    assert "anna" in condition(service, "AvatarsReady")["message"]
    assert await space.pods("show") == []

    await studio.apply("anna", source=source)
    await studio.until("anna", "Ready", "True", PREPARE_S)
    avatar = await studio.avatar("anna")
    status = avatar["status"]
    where = status["phase"], status["size"], status["gpuClass"]
    assert where == ("Ready", "1024x1024", "rtx-4090")
    assert status["frames"] >= 1
    assert status["report"]["verdict"] in ("good", "usable")
    manifest = json.loads((studio.faces / "anna" / "manifest.json").read_text())
    assert manifest["consent"] == CONSENT
    assert status["contentHash"] == manifest["content_hash"]
    assert (studio.faces / status["preview"]).is_file()

    await space.ready("show", within_s=180)
    seen = await space.service("show")
    assert condition(seen, "AvatarsReady")["status"] == "True"
    await space.known_to_gateway("show", 1)
    await all_served(await space.load("show", 1, 2.0, "--avatar", "anna"), 1)

    # In use: a deletion waits, and says for whom.
    await space.kubectl("delete", "avatar", "anna", "--wait=false")
    waits = await studio.until("anna", "InUse", "True")
    assert "show" in waits["message"]
    kept = await studio.avatar("anna")
    assert kept["metadata"]["finalizers"] == [FINALIZER]
    assert condition(kept, "Ready")["reason"] == "DeletionWaits"
    await space.kubectl("delete", "avs", "show", "--timeout=120s")
    await space.kubectl("wait", "--for=delete", "avatar/anna", "--timeout=60s")
    assert (studio.faces / "anna" / "manifest.json").is_file()  # files of people are not deleted


async def test_a_changed_source_is_served_to_new_sessions_and_cuts_none(studio: Studio) -> None:
    space = studio.space
    source = {"persistentVolumeClaim": {"claimName": "films", "path": "ben.jpg"}}
    photo(studio.films / "ben.jpg")
    await studio.apply("ben", source=source)
    await studio.until("ben", "Ready", "True", PREPARE_S)
    before = (await studio.avatar("ben"))["status"]["contentHash"]
    await space.apply("show", avatarSource=FACES, avatars=["ben"], placement=GPU, replicas=1)
    await space.ready("show", within_s=180)
    pods = [pod["metadata"]["uid"] for pod in await space.pods("show")]
    await space.known_to_gateway("show", 1)
    async with callers.calling(space, "show", 1) as talking:
        photo(studio.films / "ben.jpg", tint=20)
        again = "avatar.musetalk.io/prepare-again=2"
        await space.kubectl("annotate", "avatar", "ben", again)
        await waiting.until(
            lambda: studio.avatar("ben"),
            lambda seen: (
                seen["status"]["contentHash"] != before
                and condition(seen, "Ready").get("status") == "True"
            ),
            "the avatar is prepared again",
            PREPARE_S,
        )
        await talking.leave()
    assert [pod["metadata"]["uid"] for pod in await space.pods("show")] == pods
    await all_served(await space.load("show", 1, 2.0, "--avatar", "ben"), 1)


async def test_wrong_sources_say_what_is_wrong(studio: Studio) -> None:
    space = studio.space
    photo(studio.films / "grey.png", face=False)
    films = {"claimName": "films"}
    sources = {
        "faceless": {"persistentVolumeClaim": {**films, "path": "grey.png"}},
        "absent": {"persistentVolumeClaim": {**films, "path": "absent.mp4"}},
        "unbound": {"persistentVolumeClaim": {"claimName": "no-claim", "path": "a.mp4"}},
        "keyless": {"secret": {"name": "no-secret", "key": "a.jpg"}},
        "stranger": {"url": {"url": "https://stranger.example/a.mp4", "sha256": "0" * 64}},
    }
    for name, source in sources.items():
        await studio.apply(name, source=source, retries=0, preparation={"device": "cpu"})
    with serving(b"not the file") as port:
        url = {"url": f"http://127.0.0.1:{port}/face.jpg", "sha256": "1" * 64}
        await studio.apply("forged", source={"url": url}, preparation={"device": "cpu"})
        expected = {
            "faceless": "face",
            "absent": "absent.mp4",
            "keyless": "a.jpg",
            "stranger": "host stranger.example of spec.source.url is not among the allowed hosts",
            "forged": f"its SHA-256 is {hashlib.sha256(b'not the file').hexdigest()}",
        }
        found = await asyncio.gather(
            *(studio.until(name, "Stalled", "True", PREPARE_S) for name in expected)
        )
    for (name, words), stalled in zip(expected.items(), found, strict=True):
        assert words in stalled["message"], name
        described = await space.kubectl("describe", "avatar", name)
        assert stalled["message"][:60] in described
    faceless = await studio.avatar("faceless")
    assert condition(faceless, "Stalled")["reason"] == "SourceRefused"
    assert faceless["status"]["report"]["verdict"] == "refused"
    waits = await waiting.until(
        lambda: studio.avatar("unbound"),
        lambda seen: "no-claim" in condition(seen, "Ready").get("message", ""),
        "the missing claim is named",
    )
    assert condition(waits, "Reconciling")["status"] == "True"
    assert waits["status"]["phase"] == "Scheduling"


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[int]:
    """Serve one content at every path, and yield the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
