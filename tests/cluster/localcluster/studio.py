"""A namespace with volumes for sources and avatars, as the tests of Avatars use it."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import yaml

from localcluster import waiting
from localcluster.release import GROUP, condition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from localcluster.release import Space

PREPARE_S: Final = 240.0
"""Torch starts, and a crowded machine prepares a photo."""
FACES: Final = {"persistentVolumeClaim": {"claimName": "faces"}}
CONSENT: Final = "NASA portrait S93-38679, public domain; used for a test"


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

    def manifest(self, name: str) -> dict[str, Any]:
        """Return the manifest of an avatar on the volume."""
        return dict(json.loads((self.faces / name / "manifest.json").read_text()))

    async def avatar(self, name: str) -> dict[str, Any]:
        return await self.space.read(GROUP, f"avatars/{name}")

    async def until(self, name: str, kind: str, status: str, within_s: float = 60) -> Any:
        """Wait until a condition of the current generation has a status; return it."""

        def holds(avatar: dict[str, Any]) -> bool:
            seen = avatar.get("status", {})
            current = seen.get("observedGeneration") == avatar["metadata"]["generation"]
            return current and condition(avatar, kind).get("status") == status

        what = f"{kind} of {name} is {status}"
        found = await waiting.until(lambda: self.avatar(name), holds, what, within_s)
        return condition(found, kind)


@contextlib.asynccontextmanager
async def opened(space: Space, folder: Path) -> AsyncIterator[Studio]:
    """Give a studio; at the end its avatars go after the services that name them."""
    studio = Studio(space, folder)
    await studio.open()
    yield studio
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


@contextlib.contextmanager
def serving(content: bytes, redirects: Mapping[str, str] | None = None) -> Iterator[int]:
    """Serve one content, or a redirect at some paths, and yield the port."""
    locations = redirects or {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            location = locations.get(self.path)
            if location is not None:
                self.send_response(302)
                self.send_header("Location", location)
                self.end_headers()
                return
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
