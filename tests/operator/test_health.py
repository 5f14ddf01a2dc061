from __future__ import annotations

import asyncio

import httpx
import pytest

from avatar_operator import health
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.metrics import Metrics
from avatar_operator.settings import Address

ANY = Address("127.0.0.1", 0)


async def test_probes_report_the_checks() -> None:
    application = health.probes(lambda: True, lambda: False)
    async with health.serving(application, ANY) as port, httpx.AsyncClient() as client:
        base = f"http://127.0.0.1:{port}"
        assert (await client.get(f"{base}/healthz")).status_code == 200
        assert (await client.get(f"{base}/readyz")).status_code == 503
        assert (await client.get(f"{base}/metrics")).status_code == 404


async def test_the_readiness_probe_says_what_the_operator_waits_for() -> None:
    waiting = health.probes(lambda: True, lambda: False, lambda: "waiting for the master key")
    ready = health.probes(lambda: True, lambda: True, lambda: "")
    for application, status, text in (
        (waiting, 503, "waiting for the master key"),
        (ready, 200, ""),
    ):
        async with health.serving(application, ANY) as port, httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/readyz")
        assert (answer.status_code, answer.text) == (status, text)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\n"], ids=["nothing", "half"])
async def test_a_connection_without_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(health, "REQUEST_S", 0.05)
    async with health.serving(health.probes(lambda: True, lambda: True), ANY) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    ("required", "sent", "status"),
    [
        pytest.param(None, None, 200, id="open"),
        pytest.param("t", b"Bearer t", 200, id="token"),
        pytest.param("t", b"Bearer u", 401, id="wrong token"),
        pytest.param("t", None, 401, id="no token"),
        pytest.param("t", b"Bearer \xe9\xff", 401, id="not ASCII"),
    ],
)
async def test_metrics_require_their_token(
    required: str | None, sent: bytes | None, status: int
) -> None:
    headers = {} if sent is None else {b"Authorization": sent}
    async with (
        health.serving(health.metrics_app(Metrics(), lambda: required), ANY) as port,
        httpx.AsyncClient() as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/metrics", headers=headers)
    assert answer.status_code == status


async def test_the_series_of_a_service_is_removed_with_the_service() -> None:
    key, metrics = ServiceKey("acme", "passing"), Metrics()
    metrics.set_desired(key, 3)
    metrics.count_action("CreatePod")
    metrics.observe_reconcile(0.01, succeeded=True)
    metrics.set_state_age(0.5)
    metrics.set_leader(True)

    async def read() -> str:
        async with (
            health.serving(health.metrics_app(metrics, lambda: None), ANY) as port,
            httpx.AsyncClient() as client,
        ):
            return (await client.get(f"http://127.0.0.1:{port}/metrics")).text

    series = 'avatar_operator_desired_replicas{namespace="acme",service="passing"}'
    assert f"{series} 3.0" in await read()
    metrics.forget_service(key)
    metrics.forget_service(key)
    text = await read()
    assert series not in text
    for name in (
        'avatar_operator_actions_total{action="CreatePod"}',
        "avatar_operator_state_age_seconds 0.5",
        "avatar_operator_is_leader 1.0",
        'avatar_operator_reconcile_duration_seconds_count{outcome="success"}',
    ):
        assert name in text
