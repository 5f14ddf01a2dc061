"""Models that pods download: a cold node, a warm one, a wrong file, and the stages of a start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from localcluster import paths, waiting
from localcluster.fakes.file_server import running
from localcluster.release import condition

if TYPE_CHECKING:
    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

NETWORK_S = 20.0
FOLDER = "/musetalk/"


async def started(space: Space, name: str) -> dict[str, Any]:
    """Wait for the start of the pod of a service; return its stages in seconds."""
    await space.ready(name, within_s=240)
    service = await waiting.until(
        lambda: space.service(name),
        lambda service: bool(service["status"].get("starts")),
        "the stages of the start",
        60,
    )
    (starts,) = service["status"]["starts"]
    assert starts["count"] == 1
    assert starts["p90Seconds"] == pytest.approx(starts["lastSeconds"]["total"], abs=0.1)
    seconds: dict[str, Any] = starts["lastSeconds"]
    return seconds


async def test_a_warm_node_starts_a_pod_without_a_download(space: Space) -> None:
    with running() as server:
        server.add_folder(paths.REPOSITORY / "examples" / "models" / "demo", FOLDER)
        sha = server.add_manifest(FOLDER)
        server.bytes_per_s = sum(map(len, server.files.values())) / NETWORK_S
        download = {"url": f"{server.url}{FOLDER}SHA256SUMS", "sha256": sha}
        spec: dict[str, Any] = {"replicas": 1, "model": {"source": {"download": download}}}
        await space.apply("cold", **spec)
        cold = await started(space, "cold")
        sent = server.sent.total()
        assert sent >= sum(map(len, server.files.values()))
        await space.apply("warm", **spec)
        warm = await started(space, "warm")
        assert server.sent.total() == sent
    for stages in (cold, warm):
        known = {"scheduled", "image", "download", "process", "weights", "avatars", "warmUp"}
        assert known < set(stages)
    assert cold["download"] >= NETWORK_S - 1
    assert warm["download"] < cold["download"]
    described = await space.kubectl("describe", "avs", "warm")
    assert "PodStarted" in described
    assert "model download" in described


async def test_a_wrong_file_is_reported_in_words(space: Space) -> None:
    with running() as server:
        server.files[f"{FOLDER}weights"] = b"right"
        sha = server.add_manifest(FOLDER)
        server.files[f"{FOLDER}weights"] = b"wrong"
        download = {"url": f"{server.url}{FOLDER}SHA256SUMS", "sha256": sha}
        await space.apply("forged", replicas=1, model={"source": {"download": download}})

        def says_why(service: dict[str, Any]) -> bool:
            degraded = condition(service, "Degraded")
            return bool(degraded) and "its SHA-256 is" in degraded.get("message", "")

        await waiting.until(lambda: space.service("forged"), says_why, "the fault", 120)
