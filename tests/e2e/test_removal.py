"""Namespaces, kinds and releases that are deleted while sessions run: nothing stays stuck."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from localcluster import paths, waiting
from localcluster.controlplane.cluster import running
from localcluster.release import CORE, SYSTEM, Release, Space, all_served

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

KEY: Final = "a-key-for-the-removal-tests"
SESSIONS: Final = 3
TALK_S: Final = 8.0
ONE_POD: Final[dict[str, Any]] = {"replicas": 1, "placement": {"gpuClasses": ["h100-80gb"]}}


@pytest_asyncio.fixture(loop_scope="session")
async def own(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Space]:
    """Give a cluster that may be ruined, with a release and a namespace.

    A parameter has further arguments of `helm install`.
    """
    async with running(tmp_path, nodes=paths.SIMULATED_NODES) as cluster:
        await cluster.helm(
            "install", "avatar", paths.REPOSITORY / "charts" / "avatar-operator",
            "--namespace", SYSTEM, "--create-namespace", "--set", f"gateway.apiKey.value={KEY}",
            "--set", "gateway.replicas=1", "--set", "gateway.drainDelaySeconds=0",
            "--wait", "--timeout", "120s", *getattr(request, "param", ()),
        )  # fmt: skip
        address = await cluster.kubectl(
            "get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=gateway",
            "-o", "jsonpath={.items[0].status.podIP}",
        )  # fmt: skip
        await cluster.kubectl("create", "namespace", "own")
        yield Space(Release(cluster, f"{address}:8080", KEY), "own")


async def live_sessions(space: Space) -> Process:
    """Bring up a pod with sessions that is marked as live."""
    await space.apply("here", **ONE_POD)
    await space.ready("here")
    await space.known_to_gateway("here", 1)
    load = await space.load("here", SESSIONS, TALK_S)
    await waiting.until(
        lambda: space.service("here"),
        lambda service: service["status"].get("sessions") == SESSIONS,
        f"{SESSIONS} sessions",
    )
    await waiting.until(
        lambda: space.read(CORE, "pods", "avatar.musetalk.io/live=true"),
        lambda pods: bool(pods["items"]),
        "the pod is marked",
    )
    return load


async def uninstall(space: Space) -> str:
    """Uninstall the release; return what helm prints, with the log of the Job on stderr."""
    helm = await asyncio.create_subprocess_exec(
        space.cluster.bin_dir / "helm", "uninstall", "avatar", "--namespace", SYSTEM,
        env=space.cluster.environment(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await helm.communicate()
    assert helm.returncode == 0, printed.decode()
    return printed.decode()


async def no_pods(space: Space) -> None:
    await waiting.until(lambda: space.pods("here"), lambda pods: pods == [], "no pods", 30)


async def test_deleted_namespace_waits_for_its_sessions_and_goes(space: Space) -> None:
    load = await live_sessions(space)
    deletion = asyncio.create_task(
        space.cluster.kubectl("delete", "namespace", space.name, "--timeout=60s")
    )
    await all_served(load, SESSIONS)
    await deletion
    await space.cluster.kubectl("create", "namespace", space.name)  # for the fixture to delete


@pytest.mark.parametrize("cascade", ["background", "foreground"])
async def test_deleted_service_waits_for_its_sessions_and_goes(space: Space, cascade: str) -> None:
    load = await live_sessions(space)
    deletion = asyncio.create_task(
        space.kubectl("delete", "avs", "here", f"--cascade={cascade}", "--timeout=60s")
    )
    await all_served(load, SESSIONS)
    await deletion
    await no_pods(space)


async def test_deleted_kind_takes_its_pods_after_their_sessions(own: Space) -> None:
    load = await live_sessions(own)
    await own.cluster.kubectl("delete", "crd", "avatarservices.avatar.musetalk.io", "--timeout=30s")
    await all_served(load, SESSIONS)
    await no_pods(own)
    await own.cluster.kubectl("delete", "namespace", own.name, "--timeout=60s")


async def test_uninstalled_release_leaves_sessions_alone_and_nothing_stuck(own: Space) -> None:
    load = await live_sessions(own)
    said = await uninstall(own)
    assert f"AvatarService {own.name}/here: 1 pods, {SESSIONS} sessions" in said
    assert "the pods keep their GPUs" in said
    assert "No resources" not in await own.kubectl("get", "pods")
    await all_served(load, SESSIONS)
    await own.cluster.kubectl("delete", "namespace", own.name, SYSTEM, "--timeout=90s")
    await own.cluster.kubectl(
        "delete", "crd", "avatarservices.avatar.musetalk.io", "gpuprofiles.avatar.musetalk.io",
        "avatartenants.avatar.musetalk.io",
        "--timeout=30s",
    )  # fmt: skip


CLEANUP: Final = ("--set", "cleanup.enabled=true", "--set", "crds.keep=false")


@pytest.mark.parametrize("own", [CLEANUP], indirect=True, ids=["cleanup"])
async def test_a_cleanup_waits_for_live_sessions_and_leaves_nothing(own: Space) -> None:
    load = await live_sessions(own)
    said = await uninstall(own)
    await all_served(load, SESSIONS)
    assert f"AvatarService {own.name}/here: 1 pods, {SESSIONS} sessions: deleted" in said
    assert "all AvatarServices and Avatars and their pods are gone" in said
    await no_pods(own)
    assert "musetalk" not in await own.cluster.kubectl("get", "crd", "-o", "name")
    left = await own.cluster.kubectl("get", "clusterroles,jobs", "-A", "-o", "name")
    assert "avatar-operator" not in left
    await own.cluster.kubectl("delete", "namespace", own.name, SYSTEM, "--timeout=90s")
