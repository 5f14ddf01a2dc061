"""A real Prometheus over the real pods: every series, every alert, every panel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from localcluster import paths, waiting
from localcluster.fakes import callers
from localcluster.release import SYSTEM

if TYPE_CHECKING:
    from localcluster.prometheus import Prometheus
    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

START_S: Final = 180.0  # of pods, on a crowded machine

# Names that dashboards outside the repository rely on, and the range in which each value is sane
# while one pod with 5 slots serves 5 sessions and a sixth caller waits.
MIB: Final = 1 << 20
SANE: Final[dict[str, tuple[float, float]]] = {
    "avatar_runtime_vram_used_bytes": (1000 * MIB, 80_000 * MIB),
    "avatar_runtime_vram_total_bytes": (80_000 * MIB, 82_000 * MIB),
    "avatar_runtime_vram_used_ratio": (0.01, 0.9),
    "avatar_runtime_gpu_utilization_ratio": (0.001, 1),
    "avatar_runtime_sessions": (5, 5),
    "avatar_runtime_session_capacity": (5, 5),
    "avatar_runtime_sessions_free": (0, 0),
    "avatar_runtime_batch_size": (16, 16),
    "avatar_runtime_batch_fill_ratio": (0.01, 1),
    "avatar_runtime_first_frame_latency_seconds_count": (1, 1000),
    "avatar_runtime_frame_latency_seconds_count": (1, 100_000),
    "avatar_runtime_deadline_misses_total": (0, 100_000),
    "avatar_runtime_frames_total": (1, 100_000),
    "avatar_runtime_oom_recoveries_total": (0, 0),
    "avatar_runtime_event_loop_lag_seconds_count": (1, 100_000),
    "avatar_gateway_sessions": (5, 5),
    "avatar_gateway_waiting": (1, 1),
}
OF_THE_RELEASE: Final[dict[str, tuple[float, float]]] = {
    "avatar_operator_actions_total": (1, 1e6),
    "avatar_operator_decisions_total": (0, 1e6),
    "avatar_operator_reconcile_duration_seconds_count": (1, 1e6),
    "avatar_operator_state_age_seconds": (0, 60),
    "avatar_gateway_placement_duration_seconds_count": (5, 1e6),
    "avatar_gateway_rejections_total": (0, 1e6),
}
PLACEMENT: Final = {"gpuClasses": ["a100-80gb"]}


async def test_prometheus_reads_every_series_and_the_alerts_follow_the_sessions(
    space: Space, prometheus: Prometheus
) -> None:
    await space.apply("watched", replicas=1, placement=PLACEMENT)
    await space.ready("watched", within_s=START_S)
    await space.known_to_gateway("watched", 5)
    ours = f'namespace="{space.name}",service="watched"'
    async with callers.calling(space, "watched", 5, talks=True) as talking:
        await prometheus.until(f"avatar_runtime_sessions{{{ours}}}", (5, 5))
        async with callers.calling(space, "watched", 1, wait_ms=120_000) as queued:
            await prometheus.until(f'avatar_gateway_waiting{{namespace="{SYSTEM}"}}', (1, 1))
            await everything_is_sane(prometheus, ours)
            labels = {"namespace": space.name, "service": "watched"}
            await prometheus.until_firing("AvatarNoFreeSessions", True, **labels)
            await prometheus.until_firing("AvatarCallersWaiting", True, namespace=SYSTEM)
            await talking.leave()
            await queued.leave()
    await prometheus.until_firing("AvatarNoFreeSessions", False, namespace=space.name)
    await prometheus.until_firing("AvatarCallersWaiting", False, namespace=SYSTEM)
    await prometheus.until_firing("AvatarOperatorNotLeading", False)


async def everything_is_sane(prometheus: Prometheus, ours: str) -> None:
    """Wait until every series is there, within its bounds."""
    for name, bounds in SANE.items():
        where = ours if name.startswith("avatar_runtime") else f'namespace="{SYSTEM}"'
        await prometheus.until(f"sum({name}{{{where}}})", bounds)
    for name, bounds in OF_THE_RELEASE.items():
        await prometheus.until(f'sum({name}{{namespace="{SYSTEM}"}})', bounds)
    await prometheus.until(f"avatar_operator_desired_replicas{{{ours}}}", (1, 1))
    await prometheus.until(f'sum(avatar_operator_is_leader{{namespace="{SYSTEM}"}})', (1, 1))
    await prometheus.until(f'avatar_runtime_device_info{{{ours},device="simulated"}}', (1, 1))
    stages = await prometheus.query(f"avatar_runtime_frame_latency_seconds_count{{{ours}}}")
    assert {"queue", "unet", "vae", "total"} <= {sample.labels["stage"] for sample in stages}


async def test_every_target_rule_and_panel_works(space: Space, prometheus: Prometheus) -> None:
    await space.apply("drawn", replicas=1, placement=PLACEMENT)
    await space.ready("drawn", within_s=START_S)
    await prometheus.until(f'avatar_runtime_sessions{{namespace="{space.name}"}}', (0, 0))
    (pod,) = await space.pods("drawn")
    system = [*await space.release.pods("operator"), *await space.release.pods("gateway")]
    pods = {pod["metadata"]["name"], *(each["metadata"]["name"] for each in system)}

    async def down() -> set[str]:
        up = {t["labels"]["pod"] for t in await prometheus.targets() if t["health"] == "up"}
        return pods - up

    await waiting.until(down, lambda left: not left, "every pod is scraped", 30)
    assert {rule["health"] for rule in await prometheus.rules()} == {"ok"}
    chart = paths.REPOSITORY / "charts" / "avatar-operator"
    board = json.loads((chart / "dashboards" / "avatars.json").read_text())

    async def empty() -> list[str]:
        return [query for query in queries(board) if not await prometheus.query(query)]

    # Rates look back for 1 minute, so somebody talks meanwhile.
    await space.known_to_gateway("drawn", 5)
    async with callers.calling(space, "drawn", 2, talks=True) as talking:
        await waiting.until(empty, lambda left: not left, "every panel has data", 60)
        await talking.leave()


def queries(board: dict[str, Any]) -> list[str]:
    """Return the queries of a dashboard, for all namespaces and services."""
    expressions = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    values = {"$__rate_interval": "1m", "$namespace": ".+", "$service": ".+"}
    for name, value in values.items():
        expressions = [expression.replace(name, value) for expression in expressions]
    return expressions
