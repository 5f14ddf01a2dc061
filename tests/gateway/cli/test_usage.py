from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from avatar_gateway.__main__ import main
from avatar_gateway.cli import usage as command
from avatar_gateway.core import usage
from avatar_gateway.core.usage import Account, Record
from avatar_gateway.shared import metering, usage_log
from avatar_gateway.shared.redis import RedisState

if TYPE_CHECKING:
    from pathlib import Path

    from tests.redis_server import RedisServer

PROFILES = """
kind: List
items:
- {kind: GPUProfile, metadata: {name: a}, spec: {costPerHour: "0.50"}}
- {kind: GPUProfile, metadata: {name: b}, spec: {}}
"""
RECORDS = [
    Record(
        "k1",
        Account("acme", "ns/s", "a"),
        usage.of(sessions=1, session_ms=7_200_000, gpu_ms=3_600_000, frames=9),
        details='{"ended_s": 1767312000}',  # 2026-01-02
    ),
    Record("k2", Account("-", "ns/s", "b"), usage.of(sessions=2, bytes_in=5)),
]


@pytest.fixture
def logs(tmp_path: Path) -> list[str]:
    """Return two logs that have a record in common."""
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.write_text(usage_log.line(RECORDS[0]) + "\n")
    with paths[1].open("a") as file:
        file.write("nonsense\n" + usage_log.line(RECORDS[1]) + "\n")
    return [str(path) for path in paths]


def test_logs_count_each_key_once(
    logs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profiles").write_text(PROFILES)
    arguments = ["usage", "--since", "1970-01-01", "--log", *logs]
    arguments += ["--profiles", str(tmp_path / "profiles")]
    assert main([*arguments, "-o", "json"]) == 0
    printed = capsys.readouterr()
    assert "1 lines left out: not JSON" in printed.err
    platform, acme = json.loads(printed.out)
    assert (platform["tenant"], platform["sessions"], platform["cost"]) == ("-", 2, None)
    assert (acme["session_seconds"], acme["gpu_seconds"], acme["cost"]) == (7200, 3600, "0.5000")

    assert main([*arguments, "-o", "csv", "--tenant", "acme"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert tuple(row) == command.COLUMNS
    assert row["frames"] == "9"

    assert main(arguments) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.split()[:3] == ["(total)", "3", "7200"]
    assert last.split()[-1] == "0.5000"


@pytest.mark.parametrize(
    ("period", "tenants"),
    [
        (("--since", "2026-01-02"), ["acme"]),
        (("--since", "2026-01-03"), []),
        (("--since", "1970-01-01", "--until", "2026-01-02"), ["-"]),
        (("--since", "2026-01-02T00:00:00+00:00", "--until", "2026-01-02T01:00Z"), ["acme"]),
    ],
    ids=range(4),
)
def test_records_count_when_they_ended(
    logs: list[str],
    period: tuple[str, ...],
    tenants: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["usage", *period, "-o", "json", "--log", *logs]) == 0
    assert [row["tenant"] for row in json.loads(capsys.readouterr().out)] == tenants


@pytest.mark.slow
def test_the_shared_state_is_read(
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def report() -> None:
        connection = redis_server.connection()
        await RedisState(connection).report_usage(RECORDS)
        await connection.close()

    asyncio.run(report())
    monkeypatch.setenv("AVATAR_GATEWAY_SHARED_STATE_URL", redis_server.url)
    today = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 60))
    assert main(["usage", "--since", today, "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["tenant"], row["sessions"]) for row in found] == [("-", 2), ("acme", 1)]


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ("{", "not YAML"),
        ("[]", "GPUProfile"),
        ("kind: Pod", "GPUProfile"),
        ("{kind: GPUProfile, metadata: {name: a}, spec: {costPerHour: x}}", "costPerHour is 'x'"),
    ],
    ids=range(4),
)
def test_wrong_profiles_are_named(profiles: str, message: str) -> None:
    with pytest.raises(command.UsageError, match=message):
        command.parse_prices(profiles)


def test_prices_are_exact() -> None:
    assert command.parse_prices(PROFILES) == {"a": Decimal("0.50")}


def test_without_a_source_the_command_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AVATAR_GATEWAY_SHARED_STATE_URL", raising=False)
    assert main(["usage", "--since", "2026-11-01"]) == 2
    assert "AVATAR_GATEWAY_SHARED_STATE_URL is not set" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["usage", "--since", "soon"])
    assert "is no date" in capsys.readouterr().err


def test_a_cell_is_no_formula() -> None:
    totals = {Account("=1+1", "ns/s", "a"): usage.NONE}
    text = command.render(command.rows(totals, {}), "csv")
    assert "'=1+1" in text


def test_tenants_named_other_and_total_have_rows_of_their_own() -> None:
    rejected = usage.of(rejections=1)
    accounts = [Account("other", "other", "-"), Account("total", "", "-"), metering.OTHER]
    found = command.rows(dict.fromkeys(accounts, rejected), {})
    names = [row["tenant"] for row in found]
    assert names == ["(other)", "other", "total", "(total)"]
    assert found[-1]["rejections"] == 3
