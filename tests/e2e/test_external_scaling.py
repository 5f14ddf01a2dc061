"""The real HPA controller owns the number of pods; the operator places them and cuts nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
import yaml

from localcluster import errors, paths, waiting
from localcluster.controlplane import audit
from localcluster.fakes import callers, external_metrics
from localcluster.release import condition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.prometheus import Prometheus
    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

START_S: Final = 180.0  # of pods, on a crowded machine

SAMPLES: Final = paths.REPOSITORY / "examples" / "external-scaling"
HPA_CONTROLLER: Final = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
SCALE: Final = "avatarservices.avatar.musetalk.io/scale"
SLOTS: Final = 5  # of a pod on an A100, of which there are two
SESSIONS: Final = 9


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def asked(prometheus: Prometheus, release: Any) -> AsyncIterator[list[str]]:
    """Serve the metrics of the sample rules; gives what was asked for."""
    rules = external_metrics.read_rules(SAMPLES / "prometheus-adapter.yaml")
    async with external_metrics.serving(release.cluster, prometheus, rules) as requests:
        yield requests


def sample(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the service and the HPA of the sample, with another name and quicker to shrink."""
    service, hpa = yaml.safe_load_all((SAMPLES / "hpa.yaml").read_text())
    for body in (service, hpa):
        body["metadata"]["name"] = name
    service["spec"]["placement"] = {"gpuClasses": ["a100-80gb", "rtx-4090"]}
    spec = hpa["spec"]
    spec["scaleTargetRef"]["name"] = name
    spec["maxReplicas"] = 3
    external = spec["metrics"][0]["external"]
    external["metric"]["selector"]["matchLabels"]["service"] = name
    external["target"]["averageValue"] = "3"
    spec["behavior"]["scaleDown"] = {"stabilizationWindowSeconds": 0}
    return service, hpa


async def test_hpa_follows_the_sessions_and_cuts_none(space: Space, asked: list[str]) -> None:
    service, hpa = sample("frontdesk")
    stdin = yaml.safe_dump_all([service, hpa])
    await space.cluster.kubectl("-n", space.name, "apply", "-f", "-", stdin=stdin)
    await space.ready("frontdesk", within_s=START_S)
    await space.known_to_gateway("frontdesk", SLOTS)
    # The controller learns of a new kind of resource within half a minute.
    await space.kubectl("wait", "hpa/frontdesk", "--for=condition=ScalingActive", "--timeout=60s")
    async with callers.calling(space, "frontdesk", SESSIONS, wait_ms=60_000) as talking:
        # Five sessions on one pod ask for two; the other four, held until then, for the third.
        grown = await waiting.until(
            lambda: space.service("frontdesk"),
            lambda seen: (
                seen["status"].get("sessions") == SESSIONS and seen["status"]["capacity"] == 12
            ),
            "three pods, all heard of, for nine sessions",
            90,
        )
        assert "autoscaling" not in grown["spec"]
        assert f"{space.name}/avatar_sessions" in asked

        # The HPA is made to ask for one pod while two have sessions.
        patch = '{"spec": {"maxReplicas": 1}}'
        await space.kubectl("patch", "hpa", "frontdesk", "--type=merge", "-p", patch)
        held = await waiting.until(
            lambda: space.service("frontdesk"),
            lambda seen: seen["spec"]["replicas"] == 1 and seen["status"]["replicas"] == 2,
            "one pod is asked for, the two with sessions stay",
            60,
        )
        assert condition(held, "Draining")["status"] == "True"
        assert held["status"]["sessions"] == SESSIONS
        await talking.leave()
    await space.ready("frontdesk", within_s=START_S)

    writes = audit.read(space.cluster.audit_log, HPA_CONTROLLER)
    ours = [each for each in writes if each.namespace == space.name and each.resource == SCALE]
    assert len(ours) >= 3  # to 2, to 3, to 1
    assert {each.code for each in ours} == {200}


async def test_hpa_sample_is_taken_by_the_api_server(space: Space) -> None:
    dry = ("apply", "--server-side", "--dry-run=server")
    await space.kubectl(*dry, "-f", str(SAMPLES / "hpa.yaml"))
    wrong = (SAMPLES / "hpa.yaml").read_text().replace("averageValue:", "averageValues:")
    with pytest.raises(errors.CommandFailed, match="averageValues"):
        await space.cluster.kubectl("-n", space.name, *dry, "-f", "-", stdin=wrong)
