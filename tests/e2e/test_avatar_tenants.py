"""A tenant with few rights and bad intentions, on the real control plane."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import yaml

from localcluster import errors, waiting
from localcluster import studio as studios
from localcluster.release import CORE, GROUP, condition
from localcluster.studio import CONSENT, FACES, PREPARE_S, photo, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from localcluster.release import Space
    from localcluster.studio import Studio

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

FILMS = {"claimName": "films"}
CPU = {"device": "cpu"}
SHA = "0" * 64


@pytest_asyncio.fixture(loop_scope="session")
async def studio(space: Space, tmp_path: Path) -> AsyncIterator[Studio]:
    """Give a studio in whose namespace `mallory` has the role `edit`."""
    async with studios.opened(space, tmp_path) as opened:
        role = ("rolebinding", "mallory", "--clusterrole=edit", "--user=mallory")
        await space.kubectl("create", *role)
        yield opened


def film(path: str) -> dict[str, Any]:
    return {"persistentVolumeClaim": {**FILMS, "path": path}}


def avatar(name: str = "eve", **spec: Any) -> str:
    values = {"storage": FACES, "consent": CONSENT, "source": film("a.jpg"), **spec}
    kind = {"apiVersion": "avatar.musetalk.io/v1alpha1", "kind": "Avatar"}
    return yaml.safe_dump({**kind, "metadata": {"name": name}, "spec": values})


async def refused(studio: Studio, manifest: str, *options: str) -> str:
    """Create an object as the tenant, and return why the API server refuses it."""
    command = ("create", "-f", "-", f"-n{studio.space.name}", "--as=mallory", *options)
    with pytest.raises(errors.CommandFailed) as caught:
        await studio.space.cluster.kubectl(*command, stdin=manifest)
    return str(caught.value)


async def test_a_tenant_writes_no_status_and_no_other_namespace(studio: Studio) -> None:
    cluster, name = studio.space.cluster, studio.space.name
    own = (f"-n{name}", "--as=mallory")
    await cluster.kubectl("create", "-f", "-", *own, stdin=avatar(source=film("absent.jpg")))
    faked = json.dumps({"status": {"phase": "Ready", "contentHash": "fake"}})
    patch = ("patch", "avatar", "eve", "--type=merge", "--subresource=status", "-p", faked)
    for command in (
        (*patch, *own),
        ("create", "-f", "-", "-ndefault", "--as=mallory"),
        ("get", "avatars", "-ndefault", "--as=mallory"),
    ):
        with pytest.raises(errors.CommandFailed, match=r"Forbidden|forbidden"):
            await cluster.kubectl(*command, stdin=avatar())
    stalled = await studio.until("eve", "Stalled", "True", PREPARE_S)
    assert "absent.jpg" in stalled["message"]
    found = await studio.avatar("eve")
    assert (found["status"]["phase"], "contentHash" in found["status"]) == ("Failed", False)
    assert found["status"]["failure"]["attempts"] == 1  # a wrong input is not tried again


async def test_specs_that_lead_elsewhere_are_refused_by_the_api_server(studio: Studio) -> None:
    url = "https://films.example/a.mp4"
    wrong = {
        "path must not contain": [
            avatar(source=film("../secret.jpg")),
            avatar(source=film("a/../../b.jpg")),
            avatar(storage={"persistentVolumeClaim": {"claimName": "faces", "path": "../b"}}),
        ],
        "key must consist": [
            avatar(source={"secret": {"name": "keys", "key": "../token"}}),
            avatar(source={"configMap": {"name": "keys", "key": "-x"}}),
        ],
        "url must start": [
            avatar(source={"url": {"url": each, "sha256": SHA}})
            for each in (
                "file:///etc/passwd", "gopher://10.0.0.1/_x", "https://user:key@films.example/a",
                "https://films.example@10.0.0.1/a", "https:///a", f"{url}#x", "https://a\\b/c",
            )
        ],
        "must consist of lowercase": [avatar("eve.avatars"), avatar("a-")],
        'unknown field "spec.source.hostPath"': [avatar(source={"hostPath": {"path": "/etc"}})],
    }  # fmt: skip
    for words, manifests in wrong.items():
        for manifest in manifests:
            assert words in await refused(studio, manifest), manifest
    service = {
        "apiVersion": "avatar.musetalk.io/v1alpha1",
        "kind": "AvatarService",
        "metadata": {"name": "show"},
        "spec": {"avatarSource": FACES},
    }
    for name in ("other/carla", "../carla", ".hidden"):
        service["spec"] = {"avatarSource": FACES, "avatars": [name]}
        assert "avatars" in await refused(studio, yaml.safe_dump(service)), name


async def test_sources_that_lead_elsewhere_fail_at_once(studio: Studio) -> None:
    films = studio.films
    photo(films / "outside.jpg")
    folder = films / "linked"
    folder.mkdir()
    (folder / "0.jpg").symlink_to(films / "outside.jpg")
    (films / "pipe.jpg").symlink_to("/dev/zero")
    (films / "token.jpg").symlink_to("/var/run/secrets/kubernetes.io/serviceaccount/token")
    targets = {
        "/meta": "http://169.254.169.254/latest/meta-data/",
        "/six": "http://[::ffff:169.254.169.254]/",
        "/api": "https://kubernetes.default.svc/api",
        "/file": "file:///etc/passwd",
        "/user": "http://a:b@127.0.0.1/x",
        "/number": "http://2130706433/x",
    }
    with serving(b"x", targets) as port:
        here = f"http://127.0.0.1:{port}"
        sources = {path[1:]: {"url": {"url": here + path, "sha256": SHA}} for path in targets}
        sources["direct"] = {"url": {"url": "http://169.254.169.254/a.jpg", "sha256": SHA}}
        sources |= {name: film(f"{name}.jpg") for name in ("pipe", "token")}
        sources["linked"] = film("linked")
        for name, source in sources.items():
            await studio.apply(name, source=source, preparation=CPU)
        found = await asyncio.gather(
            *(studio.until(name, "Stalled", "True", 2 * PREPARE_S) for name in sources)
        )
    messages = {name: stalled["message"] for name, stalled in zip(sources, found, strict=True)}
    for name in ("meta", "six", "api", "number", "direct"):
        assert "is not among the allowed hosts" in messages[name], messages
    assert "must be an http or https URL" in messages["file"]
    assert "must not contain a user" in messages["user"]
    assert "is a device, must be a file" in messages["pipe"]
    assert "does not exist" in messages["token"]
    assert "link to a place outside" in messages["linked"]
    for name in sources:
        seen = (await studio.avatar(name))["status"]
        assert seen.get("failure", {}).get("attempts", 1) == 1, seen


async def test_a_folder_of_a_node_needs_the_administrator(studio: Studio) -> None:
    await studio.apply("eve", storage={"hostPath": {"path": "/etc"}}, source=film("a.jpg"))
    model = {"source": {"hostPath": {"path": "/root"}}}
    await studio.apply("eva", model=model, source=film("a.jpg"))
    for name, path in (("eve", "/etc"), ("eva", "/root")):
        found = await waiting.until(
            lambda name=name: studio.avatar(name),  # type: ignore[misc]
            lambda seen: condition(seen, "Ready").get("reason") == "JobRefused",
            f"the Job of {name} is refused",
        )
        message = condition(found, "Ready")["message"]
        assert f"its hostPath {path} is not in a folder of guard.hostPaths" in message


async def jobs(studio: Studio) -> list[dict[str, Any]]:
    return list((await studio.space.read("/apis/batch/v1", "jobs"))["items"])


async def test_a_hundred_avatars_that_find_no_node_have_few_jobs(studio: Studio) -> None:
    source = {"persistentVolumeClaim": {"claimName": "no-claim", "path": "a.mp4"}}
    manifests = [avatar(f"eve-{i}", source=source, preparation=CPU) for i in range(100)]
    await studio.space.kubectl_apply("---\n".join(manifests))
    await waiting.until(
        lambda: studio.space.read(GROUP, "avatars"),
        lambda found: all(
            each.get("status", {}).get("phase") in ("Waiting", "Scheduling")
            for each in found["items"]
        ),
        "all avatars are planned",
    )
    await waiting.until(lambda: jobs(studio), lambda found: len(found) == 3, "3 Jobs exist")
    text = await studio.space.kubectl("get", "avatars", "-o", "json")
    messages = [condition(each, "Ready").get("message", "") for each in json.loads(text)["items"]]
    assert sum("find no node, the limit is 3" in each for each in messages) >= 1
    # Another tenant is not kept waiting.
    other = avatar("zoe", source={"url": {"url": "http://127.0.0.1:9/a", "sha256": SHA}}, retries=0,
                   preparation=CPU)  # fmt: skip
    cluster = studio.space.cluster
    await cluster.kubectl("apply", "-f", "-", "-ndefault", stdin=other)
    try:
        await waiting.until(
            lambda: cluster.kubectl("get", "jobs", "-ndefault", "-o", "name"),
            lambda names: "zoe-prepare" in names,
            "the Job of the other tenant exists",
        )
    finally:
        await cluster.kubectl("delete", "avatar", "zoe", "-ndefault", "--timeout=60s")
    assert len(await jobs(studio)) == 3


async def test_an_avatar_that_is_replaced_while_its_job_runs(studio: Studio) -> None:
    """Never two pods that write the folder; the second avatar wins."""
    photo(studio.films / "first.jpg")
    photo(studio.films / "second.jpg", tint=20)
    space = studio.space
    most = 0

    async def writers() -> int:
        selector = "avatar.musetalk.io/avatar=eve"
        found = await space.read(CORE, "pods", selector)
        phases = [pod["status"].get("phase") for pod in found["items"]]
        return sum(phase in ("Pending", "Running") for phase in phases)

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, await writers())
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    try:
        await studio.apply("eve", source=film("first.jpg"), preparation=CPU)
        await waiting.until(
            lambda: studio.avatar("eve"),
            lambda seen: seen.get("status", {}).get("phase") == "Running",
            "the first Job runs",
            PREPARE_S,
        )
        await space.kubectl("delete", "avatar", "eve", "--timeout=60s")
        await studio.apply("eve", source=film("second.jpg"), preparation=CPU)
        await studio.until("eve", "Ready", "True", 2 * PREPARE_S)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    assert most == 1
    assert studio.manifest("eve")["source"]["name"] == "second.jpg"
    status = (await studio.avatar("eve"))["status"]
    assert status["contentHash"] == studio.manifest("eve")["content_hash"]


async def test_names_that_others_have_are_left_alone(studio: Studio) -> None:
    space = studio.space
    photo(studio.films / "a.jpg")
    note = studio.faces / "eve" / "notes.txt"
    note.parent.mkdir()
    note.write_text("not an avatar")
    await studio.apply("eve", source=film("a.jpg"), preparation=CPU)
    stalled = await studio.until("eve", "Stalled", "True", PREPARE_S)
    assert "exists and is not an avatar" in stalled["message"]
    assert note.read_text() == "not an avatar"
    # A Job of a stranger has the name of the next attempt.
    (job,) = await jobs(studio)
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job["metadata"]["name"]},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [
                {"name": "a", "image": "a"}
            ]}},
        },
    }  # fmt: skip
    await space.kubectl("delete", "avatar", "eve", "--timeout=60s")
    await waiting.until(lambda: jobs(studio), lambda found: not found, "the Job is gone")
    await space.kubectl_apply(yaml.safe_dump(body))
    await studio.apply("eve", source=film("a.jpg"), preparation=CPU)
    found = await waiting.until(
        lambda: studio.avatar("eve"),
        lambda seen: condition(seen, "Ready").get("reason") == "JobRefused",
        "the taken name is reported",
    )
    assert "already exists" in condition(found, "Ready")["message"]
    (kept,) = await jobs(studio)
    assert "ownerReferences" not in kept["metadata"]
