"""The admin listener: what the operator, the gateway and Prometheus can read and control."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from avatar_contracts.tokens import gateway_key, session_token, state_token
from avatar_runtime.serving import admin, engine_health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.runtime.serving.conftest import Serve

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-the-service"
KEYS = {
    "pod", "service", "gpu_class", "batch_size", "batch_limit", "capacity", "sessions", "speaking",
    "free", "draining", "ready", "vram", "latency_ms", "deadline_miss_ratio", "batch_fill_ratio",
    "device", "calibration", "start", "sequence",
}  # fmt: skip
METRICS = """
avatar_runtime_vram_used_bytes avatar_runtime_vram_total_bytes avatar_runtime_vram_used_ratio
avatar_runtime_gpu_utilization_ratio avatar_runtime_sessions avatar_runtime_session_capacity
avatar_runtime_batch_size avatar_runtime_batch_fill_ratio
avatar_runtime_first_frame_latency_seconds_bucket avatar_runtime_frame_latency_seconds_bucket
avatar_runtime_deadline_misses_total avatar_runtime_frames_total
avatar_runtime_oom_recoveries_total avatar_runtime_event_loop_lag_seconds_bucket
""".split()


async def test_the_state_has_the_fixed_keys_and_the_current_numbers(serve: Serve) -> None:
    async with serve() as served, httpx.AsyncClient(base_url=f"http://{served.admin}") as http:
        async with served.client() as client:
            await client.speak(10)
            await client.until("response.done")
            state = (await http.get("/control/v1/state")).json()
        assert state.keys() == KEYS
        assert state["pod"] == "concierge-0"
        assert state["service"] == "acme/concierge"
        assert state["gpu_class"] == "rtx-4090"
        assert (state["capacity"], state["sessions"], state["free"]) == (2, 1, 1)
        assert (state["batch_size"], state["batch_limit"]) == (8, 8)
        assert (state["ready"], state["draining"], state["speaking"]) == (True, False, 0)
        assert state["vram"] == {"used_bytes": 3, "total_bytes": 12, "ratio": 0.25}
        assert state["latency_ms"].keys() == {"first_frame_p95", "frame_p95"}


async def test_the_metrics_have_the_fixed_names(serve: Serve) -> None:
    async with serve() as served, httpx.AsyncClient(base_url=f"http://{served.admin}") as http:
        async with served.client() as client:
            await client.speak(10)
            await client.until("response.done")
        text = (await http.get("/metrics")).text
        names = {line.split("{")[0].split(" ")[0] for line in text.splitlines()}
        assert set(METRICS) <= names
        assert 'avatar_runtime_frames_total{kind="drawn"} 10.0' in text
        assert 'device_info{device="simulated",gpu_class="rtx-4090"} 1.0' in text
        assert "avatar_runtime_first_frame_latency_seconds_count 1.0" in text


async def test_a_draining_pod_has_no_free_sessions_to_scale_by(serve: Serve) -> None:
    async with serve() as served, httpx.AsyncClient(base_url=f"http://{served.admin}") as http:
        async with served.client():
            assert "avatar_runtime_sessions_free 1.0" in (await http.get("/metrics")).text
            await http.post("/control/v1/drain", json={"draining": True})
            text = (await http.get("/metrics")).text
            assert "avatar_runtime_sessions_free 0.0" in text
            assert "avatar_runtime_session_capacity 2.0" in text


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
    ],
    ids=["none", "empty", "wrong", "no scheme", "right"],
)
async def test_control_requests_need_the_token_of_the_service(
    serve: Serve, header: dict[str, str], status: int
) -> None:
    async with (
        serve(AVATAR_ADMIN_TOKEN=TOKEN) as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}", headers=header) as http,
    ):
        assert (await http.get("/control/v1/state")).status_code == status
        assert (await http.get("/metrics")).status_code == status
        answer = await http.post("/control/v1/drain", json={"draining": True})
        assert answer.status_code == status
        assert served.runtime.slots.draining == (status == 200)


async def test_metrics_can_be_open_while_control_needs_the_token(serve: Serve) -> None:
    variables = {"AVATAR_ADMIN_TOKEN": TOKEN, "AVATAR_METRICS_OPEN": "true"}
    async with (
        serve(**variables) as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}") as http,
    ):
        assert (await http.get("/metrics")).status_code == 200
        assert (await http.get("/control/v1/state")).status_code == 401


async def test_the_token_of_gateways_reads_and_cannot_control(serve: Serve) -> None:
    key = gateway_key("a-master-key-of-the-operator")
    token = state_token(key, "acme/concierge")
    variables = {"AVATAR_ADMIN_TOKEN": TOKEN, "AVATAR_STATE_TOKEN": token}
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        serve(**variables) as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}", headers=headers) as http,
    ):
        assert (await http.get("/control/v1/state")).status_code == 200
        assert (await http.get("/metrics")).status_code == 200
        refused = await http.post("/control/v1/drain", json={"draining": True})
        assert refused.status_code == 401
        refused = await http.post("/control/v1/batch-limit", json={"limit": 1})
        assert refused.status_code == 401
        assert not served.runtime.slots.draining
        assert served.runtime.batcher.limit.requested != 1
        session = {"Authorization": f"Bearer {session_token(key, 'acme/concierge')}"}
        assert (await http.get("/control/v1/state", headers=session)).status_code == 401


async def test_a_running_pod_accepts_the_tokens_of_a_new_master_key(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("first")
    (tmp_path / "session-token").write_text("of sessions")

    async def status(http: httpx.AsyncClient, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return (await http.get("/control/v1/state", headers=headers)).status_code

    async with (
        serve(AVATAR_TOKEN_FOLDER=str(tmp_path)) as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}") as http,
        served.client(additional_headers={"Avatar-Session-Token": "of sessions"}),
    ):
        assert [await status(http, token) for token in ("first", "second", "x")] == [200, 401, 401]
        (tmp_path / "token").write_text("second")
        (tmp_path / "previous-token").write_text("first")
        assert [await status(http, token) for token in ("first", "second")] == [200, 200]
        (tmp_path / "previous-token").unlink()
        assert [await status(http, token) for token in ("first", "second")] == [401, 200]
        assert served.runtime.slots.sessions == 1


async def test_without_a_token_only_a_loopback_listener_is_open(serve: Serve) -> None:
    async with (
        serve(AVATAR_ADMIN="0.0.0.0:0") as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}") as http,
    ):
        assert (await http.get("/control/v1/state")).status_code == 401


async def test_a_drain_refuses_new_sessions_and_keeps_the_live_one(serve: Serve) -> None:
    async with (
        serve() as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}") as http,
        served.client() as client,
    ):
        state = (await http.post("/control/v1/drain", json={"draining": True})).json()
        assert (state["draining"], state["free"], state["sessions"]) == (True, 0, 1)
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{served.sessions}/v1/realtime")
        error = json.loads(refused.value.response.body or b"")["error"]
        assert error["code"] == "draining"
        # Disruption budgets count on a draining pod that has sessions.
        assert (await http.get(f"http://{served.sessions}/readyz")).status_code == 200
        await client.speak(5)
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        state = (await http.post("/control/v1/drain", json={"draining": False})).json()
        assert (state["draining"], state["free"]) == (False, 1)
        async with served.client():
            pass


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("drain", b"{}", "missing_field", "draining"),
        ("drain", b'{"draining": 1}', "invalid_type", "draining"),
        ("batch-limit", b'{"limit": 0}', "invalid_value", "limit"),
        ("batch-limit", b'{"limit": 9}', "invalid_value", "limit"),
        ("batch-limit", b"[]", "invalid_json", None),
        ("batch-limit", b"\xff", "invalid_json", None),
        ("drain", b" " * 5000, "message_too_large", None),
    ],
)
async def test_an_invalid_command_is_an_error_and_changes_nothing(
    serve: Serve, path: str, body: bytes, code: str, param: str | None
) -> None:
    async with serve() as served, httpx.AsyncClient(base_url=f"http://{served.admin}") as http:
        answer = await http.post(f"/control/v1/{path}", content=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
        assert (served.runtime.slots.draining, served.runtime.batcher.limit.value) == (False, 8)


async def test_a_batch_limit_shows_in_the_state(serve: Serve) -> None:
    async with serve() as served, httpx.AsyncClient(base_url=f"http://{served.admin}") as http:
        state = (await http.post("/control/v1/batch-limit", json={"limit": 2})).json()
        assert (state["batch_size"], state["batch_limit"]) == (8, 2)


async def test_a_watcher_sees_each_change_and_a_line_each_second(serve: Serve) -> None:
    async with (
        serve() as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}") as http,
        http.stream("GET", "/control/v1/state?watch=1") as stream,
    ):
        lines = _documents(stream)
        first = await anext(lines)
        assert first["sessions"] == 0
        async with served.client():
            second = await anext(lines)
            assert second["sessions"] == 1
        assert (await anext(lines))["sessions"] == 0
        async with asyncio.timeout(2.0):
            quiet = await anext(lines)
        sequences = [first["sequence"], second["sequence"], quiet["sequence"]]
        assert sequences == sorted(set(sequences))


async def test_a_watcher_sees_the_start_and_the_end_of_a_drain_at_once(serve: Serve) -> None:
    async with (
        serve() as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}") as http,
        http.stream("GET", "/control/v1/state?watch=1") as stream,
    ):
        lines = _documents(stream)
        assert (await anext(lines))["draining"] is False
        for draining, free in ((True, 0), (False, 2)):
            changes = served.runtime.changes.count
            served.runtime.set_draining(draining)
            assert served.runtime.changes.count == changes + 1
            line = await anext(lines)
            assert (line["draining"], line["free"], line["ready"]) == (draining, free, True)


async def test_a_process_that_is_ending_reports_that_it_drains(serve: Serve) -> None:
    async with (
        serve() as served,
        served.client(),
        httpx.AsyncClient(base_url=f"http://{served.admin}") as http,
        http.stream("GET", "/control/v1/state?watch=1") as stream,
    ):
        lines = _documents(stream)
        assert (await anext(lines))["draining"] is False
        draining = asyncio.create_task(served.runtime.drain())
        line = await anext(lines)
        assert (line["draining"], line["free"], line["sessions"]) == (True, 0, 1)
        assert not draining.done()
        draining.cancel()


async def test_the_state_stream_ends_when_the_runtime_stops(serve: Serve) -> None:
    async with serve() as served:
        states = admin.lines(served.runtime)
        assert json.loads(await anext(states))["ready"] is True
        served.runtime.stop_watchers()
        assert [line async for line in states] == []


async def test_a_watcher_is_sent_at_most_ten_lines_a_second(serve: Serve) -> None:
    async with (
        serve() as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}") as http,
        http.stream("GET", "/control/v1/state?watch=1") as stream,
    ):
        lines = _documents(stream)
        await anext(lines)
        clock, began = served.runtime.clock, served.runtime.clock()
        for limit in range(1, 6):
            served.runtime.set_batch_limit(limit)
            await anext(lines)
        assert clock() - began >= 0.4
        assert served.runtime.state()["batch_limit"] == 5


async def _documents(stream: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in stream.aiter_lines():
        yield json.loads(line)


async def test_health_fails_while_a_batch_hangs(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_health, "HUNG_S", 0.05)
    async with (
        serve() as served,
        httpx.AsyncClient(base_url=f"http://{served.sessions}") as http,
        served.client() as client,
    ):
        assert (await http.get("/healthz")).status_code == 200
        served.engine.gate.clear()
        await client.speak(10)
        await served.eventually(lambda: served.runtime.batcher.health() is not None, "noticed")
        assert (await http.get("/healthz")).status_code == 503
        served.engine.gate.set()
        await client.until("response.done")
        assert served.runtime.batcher.health() is None


async def test_health_fails_when_every_batch_fails_for_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_health, "FAILING_S", 0.05)
    async with serve() as served, served.client() as client:
        served.engine.failing = True
        await client.speak(10)
        await client.until("response.done")
        await served.eventually(lambda: served.runtime.batcher.health() is not None, "noticed")
        served.engine.failing = False
        await client.speak(10)
        await client.until("response.done")
        assert served.runtime.batcher.health() is None


async def test_an_unexpected_error_of_the_batcher_closes_the_sessions_and_stays_unhealthy(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as served, served.client() as client:

        async def broken(batch: object) -> object:
            raise RuntimeError("a bug")

        monkeypatch.setattr(served.engine, "run", broken)
        await client.speak(10)
        done = await client.until("response.done")
        assert done["response"]["status"] == "failed"
        await client.socket.wait_closed()
        assert client.socket.close_code == 1011
        assert served.runtime.batcher.health() is not None
