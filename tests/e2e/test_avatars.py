"""Avatars on the real control plane: from `kubectl apply` to sessions, and what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import pytest
import pytest_asyncio

from avatar_client import session, sound
from localcluster import studio as studios
from localcluster import waiting
from localcluster.fakes import callers
from localcluster.release import all_served, condition
from localcluster.studio import CONSENT, FACES, PREPARE_S, photo, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from localcluster.release import Space
    from localcluster.studio import Studio

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

GPU: Final = {"gpuClasses": ["rtx-4090"]}
FINALIZER: Final = "avatar.musetalk.io/in-use"


@pytest_asyncio.fixture(loop_scope="session")
async def studio(space: Space, tmp_path: Path) -> AsyncIterator[Studio]:
    async with studios.opened(space, tmp_path) as opened:
        yield opened


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
    await studio.apply("ben", source=source, preparation={"device": "cpu"})
    await studio.until("ben", "Ready", "True", PREPARE_S)
    before = (await studio.avatar("ben"))["status"]["contentHash"]
    await space.apply("show", avatarSource=FACES, avatars=["ben"], placement=GPU, replicas=2)
    await space.ready("show", pods=2, within_s=180)
    pods = sorted(pod["metadata"]["uid"] for pod in await space.pods("show"))
    await space.known_to_gateway("show", 2)
    target = session.Target(
        f"ws://{space.release.gateway}", f"{space.name}/show", space.release.key
    )
    speech = sound.read(callers.SPEECH).cut(callers.WORDS_S)
    async with session.connect(target, resumes=False) as old:
        assert version(old) == before[:16]
        assert (await old.speak(speech)).status == "completed"
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
        after = (await studio.avatar("ben"))["status"]["contentHash"]
        # The old session goes on with the old pictures, beside a new one with the new pictures.
        async with AsyncExitStack() as kept:
            new = await session_of_version(target, after[:16], kept)
            responses = await asyncio.gather(old.speak(speech), new.speak(speech))
        assert version(old) == before[:16]
        assert [response.status for response in responses] == ["completed", "completed"]
        dark, light = (brightness(response) for response in responses)
        assert 10 < light - dark < 30
    assert sorted(pod["metadata"]["uid"] for pod in await space.pods("show")) == pods


def version(live: session.Session) -> str:
    return str(live.trace.session["avatar"]["version"])


async def session_of_version(
    target: session.Target, wanted: str, kept: AsyncExitStack
) -> session.Session:
    """Open sessions until one has the version, which stays open in `kept`.

    Each pod looks at the folder of avatars on its own, so that for some seconds the version of a
    new session depends on its pod.
    """

    async def opened() -> session.Session | None:
        async with AsyncExitStack() as attempt:
            live = await attempt.enter_async_context(session.connect(target))
            if version(live) != wanted:
                return None
            kept.push_async_exit(attempt.pop_all())
            return live

    found = await waiting.until(opened, lambda live: live is not None, f"a session of {wanted}")
    assert found is not None
    return found


def brightness(response: Any) -> float:
    """Return the mean grey level of the frames of a response."""
    frames = [
        np.asarray(cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_GRAYSCALE))
        for frame in response.frames
        if frame.data
    ]
    assert frames
    return float(np.mean([frame.mean() for frame in frames if frame is not None]))


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
