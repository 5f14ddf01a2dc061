"""The chart's alerts under promtool: each fires on bad series and is quiet on good ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "avatar-operator"
PROMETHEUS: Final = ("--api-versions", "monitoring.coreos.com/v1")
HERE: Final = 'namespace="avatars"'
POD: Final = 'namespace="acme",pod="desk-0",service="desk"'
OTHER: Final = 'namespace="acme",pod="desk-1",service="desk"'
ELSEWHERE: Final = 'namespace="other-release"'
DESIRED: Final = 'avatar_operator_desired_replicas{namespace="acme",service="desk",pod="op-0"}'
FAILED: Final = f'avatar_operator_reconcile_duration_seconds_count{{{HERE},outcome="failure"}}'


def problem(condition: str, reason: str) -> str:
    """Return the series of a condition of the service `acme/desk` that reports a problem."""
    labels = f'namespace="acme",service="desk",condition="{condition}",reason="{reason}"'
    return f'avatar_operator_service_problem{{{labels},pod="op-0"}}'


def refused(reason: str) -> str:
    """Return the series of the connections that a gateway of this release refused."""
    return f'avatar_gateway_connections_ended_total{{{HERE},pod="gw-0",reason="{reason}"}}'


def asked(outcome: str) -> str:
    """Return the series of the requests of a pod to a chat endpoint."""
    return f'avatar_runtime_upstream_requests_total{{{POD},leg="chat",outcome="{outcome}"}}'


@dataclass(frozen=True, slots=True)
class Case:
    """Series, a sample a minute, and whether an alert fires on them after half an hour."""

    alert: str
    series: Mapping[str, str]
    labels: Mapping[str, str] | None = None
    """Of the alert that fires, besides its severity; None: it does not."""
    critical: bool = False
    value: str = ""
    """Its value as the description shows it."""


DESK: Final = {"namespace": "acme", "service": "desk"}
RELEASE: Final = {"namespace": "avatars"}
CASES: Final[Mapping[str, Case]] = {
    "memory-over-90": Case(
        "AvatarVramAlmostFull",
        {f"avatar_runtime_vram_used_ratio{{{POD}}}": "0.91x30"},
        {**DESK, "pod": "desk-0"},
        value="91%",
    ),
    "memory-at-90": Case(
        "AvatarVramAlmostFull", {f"avatar_runtime_vram_used_ratio{{{POD}}}": "0.9x30"}
    ),
    "memory-over-90-for-a-minute": Case(
        "AvatarVramAlmostFull", {f"avatar_runtime_vram_used_ratio{{{POD}}}": "0.2x28 0.95x1"}
    ),
    "two-in-a-hundred-late": Case(
        "AvatarDeadlinesMissed",
        {
            f"avatar_runtime_deadline_misses_total{{{POD}}}": "0+30x30",
            f"avatar_runtime_deadline_misses_total{{{OTHER}}}": "0+30x30",
            f"avatar_runtime_frames_total{{{POD}}}": "0+1500x30",
            f"avatar_runtime_frames_total{{{OTHER}}}": "0+1500x30",
        },
        DESK,
        value="2%",
    ),
    "half-a-percent-late": Case(
        "AvatarDeadlinesMissed",
        {
            f"avatar_runtime_deadline_misses_total{{{POD}}}": "0+7x30",
            f"avatar_runtime_frames_total{{{POD}}}": "0+1500x30",
        },
    ),
    "nobody-speaks": Case(
        "AvatarDeadlinesMissed",
        {
            f"avatar_runtime_deadline_misses_total{{{POD}}}": "5x30",
            f"avatar_runtime_frames_total{{{POD}}}": "1500x30",
        },
    ),
    "no-room-on-any-pod": Case(
        "AvatarNoFreeSessions",
        {
            f"avatar_runtime_sessions_free{{{POD}}}": "0x30",
            f"avatar_runtime_sessions_free{{{OTHER}}}": "0x30",
        },
        DESK,
        critical=True,
        value="0",
    ),
    "room-on-one-pod": Case(
        "AvatarNoFreeSessions",
        {
            f"avatar_runtime_sessions_free{{{POD}}}": "0x30",
            f"avatar_runtime_sessions_free{{{OTHER}}}": "1x30",
        },
    ),
    "no-pods-at-all": Case("AvatarNoFreeSessions", {f"{DESIRED}": "0x30"}),
    "a-line-at-the-gateways": Case(
        "AvatarCallersWaiting",
        {
            f'avatar_gateway_waiting{{{HERE},pod="gw-0"}}': "1x30",
            f'avatar_gateway_waiting{{{HERE},pod="gw-1"}}': "2x30",
        },
        RELEASE,
        value="3",
    ),
    "a-line-of-half-a-minute": Case(
        "AvatarCallersWaiting", {f"avatar_gateway_waiting{{{HERE}}}": "0x29 4"}
    ),
    "a-line-of-another-release": Case(
        "AvatarCallersWaiting", {f"avatar_gateway_waiting{{{ELSEWHERE}}}": "9x30"}
    ),
    "a-pod-not-heard-of": Case(
        "AvatarStateStale",
        {f'avatar_operator_state_age_seconds{{{HERE},pod="op-0"}}': "0x5 60+60x25"},
        {**RELEASE, "pod": "op-0"},
        value="25m 0s",
    ),
    "every-pod-heard-of": Case(
        "AvatarStateStale", {f'avatar_operator_state_age_seconds{{{HERE},pod="op-0"}}': "1.2x30"}
    ),
    "one-pod-of-three": Case(
        "AvatarPodsMissing",
        {f"{DESIRED}": "3x30", f"avatar_runtime_session_capacity{{{POD}}}": "8x30"},
        DESK,
        value="2",
    ),
    "no-pod-of-one": Case("AvatarPodsMissing", {f"{DESIRED}": "1x30"}, DESK, value="1"),
    "as-many-pods-as-wanted": Case(
        "AvatarPodsMissing",
        {f"{DESIRED}": "1x30", f"avatar_runtime_session_capacity{{{POD}}}": "8x30"},
    ),
    "none-wanted": Case("AvatarPodsMissing", {f"{DESIRED}": "0x30"}),
    "missing-while-it-starts": Case(
        "AvatarPodsMissing",
        {f"{DESIRED}": "1x20 2x10", f"avatar_runtime_session_capacity{{{POD}}}": "8x30"},
    ),
    "nobody-leads": Case(
        "AvatarOperatorNotLeading",
        {
            f'avatar_operator_is_leader{{{HERE},pod="op-0"}}': "0x30",
            f'avatar_operator_is_leader{{{ELSEWHERE},pod="op-0"}}': "1x30",
        },
        {},
        critical=True,
    ),
    "no-operator-is-seen": Case("AvatarOperatorNotLeading", {"up": "1x30"}, {}, critical=True),
    "one-of-two-leads": Case(
        "AvatarOperatorNotLeading",
        {
            f'avatar_operator_is_leader{{{HERE},pod="op-0"}}': "0x30",
            f'avatar_operator_is_leader{{{HERE},pod="op-1"}}': "1x30",
        },
    ),
    "a-gateway-without-the-shared-state": Case(
        "AvatarSharedStateUnavailable",
        {
            f'avatar_gateway_shared_state_up{{{HERE},pod="gw-0"}}': "1x10 0x20",
            f'avatar_gateway_shared_state_up{{{HERE},pod="gw-1"}}': "1x30",
        },
        RELEASE,
    ),
    "all-gateways-with-the-shared-state": Case(
        "AvatarSharedStateUnavailable",
        {
            f'avatar_gateway_shared_state_up{{{HERE},pod="gw-0"}}': "1x30",
            f'avatar_gateway_shared_state_up{{{ELSEWHERE},pod="gw-0"}}': "0x30",
        },
    ),
    "a-failure-every-four-seconds": Case(
        "AvatarReconcilesFail", {FAILED: "0+15x30"}, RELEASE, value="250m"
    ),
    "a-failure-a-minute": Case("AvatarReconcilesFail", {FAILED: "0+1x30"}),
    "a-spec-that-is-wrong": Case(
        "AvatarServiceStalled",
        {problem("Stalled", "InvalidSpec"): "1x30"},
        {**DESK, "reason": "InvalidSpec"},
    ),
    "wrong-for-two-minutes": Case(
        "AvatarServiceStalled", {problem("Stalled", "InvalidSpec"): "_x28 1x1"}
    ),
    "a-lost-node": Case(
        "AvatarServiceDegraded",
        {problem("Degraded", "NodeLost"): "1x30"},
        {**DESK, "reason": "NodeLost"},
    ),
    "degraded-and-mended": Case(
        "AvatarServiceDegraded", {problem("Degraded", "NodeLost"): "1x20 stale"}
    ),
    "no-gpu-is-free": Case(
        "AvatarGpusMissing",
        {problem("GPUAvailable", "NoFreeGPU"): "1x30"},
        {**DESK, "reason": "NoFreeGPU"},
    ),
    "another-condition": Case("AvatarGpusMissing", {problem("StateFresh", "StateMissing"): "1x30"}),
    "two-sessions-lost-with-a-pod": Case(
        "AvatarSessionsLost",
        {f'avatar_gateway_recoveries_total{{{HERE},pod="gw-0",result="lost"}}': "0x25 2x5"},
        RELEASE,
        critical=True,
        value="2",
    ),
    "all-sessions-recovered": Case(
        "AvatarSessionsLost",
        {f'avatar_gateway_recoveries_total{{{HERE},pod="gw-0",result="recovered"}}': "0x25 9x5"},
    ),
    "a-flood-from-one-address": Case(
        "AvatarCallersRefused",
        {refused("address_limit"): "0+120x30"},
        {**RELEASE, "reason": "address_limit"},
        value="2",
    ),
    "clients-that-never-ask": Case("AvatarCallersRefused", {refused("deadline"): "0+600x30"}),
    "a-pod-with-wrong-states": Case(
        "AvatarPodStatesInvalid",
        {f'avatar_gateway_state_faults_total{{{HERE},pod="gw-0"}}': "0+6x30"},
        RELEASE,
        value="100m",
    ),
    "one-wrong-state-long-ago": Case(
        "AvatarPodStatesInvalid",
        {f'avatar_gateway_state_faults_total{{{HERE},pod="gw-0"}}': "0x5 1x25"},
    ),
    "a-gpu-that-fails": Case(
        "AvatarBatchesFail",
        {f"avatar_runtime_batch_failures_total{{{POD}}}": "0+6x30"},
        {**DESK, "pod": "desk-0"},
        value="100m",
    ),
    "no-batch-fails": Case(
        "AvatarBatchesFail", {f"avatar_runtime_batch_failures_total{{{POD}}}": "3x30"}
    ),
    "one-of-two-pods-cannot-read-an-avatar": Case(
        "AvatarAvatarsFaulty",
        {
            f"avatar_runtime_avatars_faulty{{{POD}}}": "1x30",
            f"avatar_runtime_avatars_faulty{{{OTHER}}}": "0x30",
        },
        DESK,
        value="1",
    ),
    "all-avatars-are-read": Case(
        "AvatarAvatarsFaulty", {f"avatar_runtime_avatars_faulty{{{POD}}}": "0x30"}
    ),
    "three-of-four-requests-fail": Case(
        "AvatarUpstreamFails",
        {asked("failed"): "0+45x30", asked("completed"): "0+15x30", asked("cancelled"): "0+90x30"},
        {**DESK, "leg": "chat"},
        value="75%",
    ),
    "one-of-four-requests-fails": Case(
        "AvatarUpstreamFails", {asked("failed"): "0+15x30", asked("completed"): "0+45x30"}
    ),
    "two-installations": Case(
        "AvatarServicesManagedElsewhere",
        {f'avatar_operator_services_managed_elsewhere{{{HERE},pod="op-0"}}': "2x30"},
        RELEASE,
        value="2",
    ),
    "one-installation": Case(
        "AvatarServicesManagedElsewhere",
        {
            f'avatar_operator_services_managed_elsewhere{{{HERE},pod="op-0"}}': "0x30",
            f'avatar_operator_services_managed_elsewhere{{{ELSEWHERE},pod="op-0"}}': "4x30",
        },
    ),
}


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing: requirements/install-debian installs it")
    return found


@pytest.fixture(scope="session")
def rules(helm: Any) -> dict[str, Any]:
    """The spec of the PrometheusRule with the default thresholds."""
    return render(helm, {"runbookUrl": "https://docs.example/alerts"})


def render(helm: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    monitoring = {"monitoring": {"rules": {"enabled": True, **values}}}
    objects = helm.template(monitoring, args=PROMETHEUS)
    (found,) = (each for each in objects if each["kind"] == "PrometheusRule")
    return dict(found["spec"])


def by_name(rules: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    (group,) = rules["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def run(promtool: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [promtool, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_promtool_accepts_the_rules(promtool: str, rules: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rules))
    run(promtool, "check", "rules", "--lint-fatal", file)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_alert_fires_when_it_should_and_only_then(
    promtool: str, rules: dict[str, Any], tmp_path: Path, case: Case
) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    expected = []
    if case.labels is not None:
        rule = by_name(rules)[case.alert]
        severity = "critical" if case.critical else "warning"
        expected = [
            {
                "exp_labels": {**case.labels, "severity": severity},
                "exp_annotations": {k: read(text, case) for k, text in rule["annotations"].items()},
            }
        ]
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    check = {"eval_time": "30m", "alertname": case.alert, "exp_alerts": expected}
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "30s",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": [check]}],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    run(promtool, "test", "rules", file)


def read(text: str, case: Case) -> str:
    """Return an annotation as it is sent: with the labels and the value of the case."""
    labels = case.labels or {}
    text = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)
    return re.sub(r"{{ \$value[^}]*}}", case.value, text)


def test_every_alert_is_seen_to_fire_and_to_be_quiet(rules: dict[str, Any]) -> None:
    fires = {case.alert for case in CASES.values() if case.labels is not None}
    quiet = {case.alert for case in CASES.values() if case.labels is None}
    assert fires == quiet == set(by_name(rules))


def test_every_alert_has_its_section_and_links_it(rules: dict[str, Any]) -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "alerts.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(by_name(rules))
    for name, rule in by_name(rules).items():
        annotations = rule["annotations"]
        assert annotations["runbook_url"] == f"https://docs.example/alerts#{name.lower()}"
        assert all(len(annotations[key]) > 20 for key in ("summary", "description", "runbook"))


@pytest.mark.slow
def test_values_move_a_threshold_and_take_an_alert_away(helm: Any) -> None:
    alerts = {
        "vramAlmostFull": {"above": 0.85, "for": "10s", "severity": "page"},
        "callersWaiting": {"enabled": False},
    }
    found = by_name(render(helm, {"alerts": alerts}))
    assert "AvatarCallersWaiting" not in found
    changed = found["AvatarVramAlmostFull"]
    assert changed["expr"] == "avatar_runtime_vram_used_ratio > 0.85"
    assert (changed["for"], changed["labels"]["severity"]) == ("10s", "page")
    assert all("runbook_url" not in rule["annotations"] for rule in found.values())


@pytest.mark.slow
def test_rules_need_their_api_and_the_notes_say_so(helm: Any) -> None:
    values = {"monitoring": {"rules": {"enabled": True}}}
    objects = helm.template(values)
    assert [each for each in objects if each["kind"] == "PrometheusRule"] == []
    args = ("install", "demo", str(CHART), "--dry-run=client")
    assert "no PrometheusRule was created" in helm.run(*args, values=values)


@pytest.mark.slow
def test_promtool_accepts_every_query_of_the_dashboard(
    promtool: str, helm: Any, tmp_path: Path
) -> None:
    objects = helm.template({"monitoring": {"dashboards": {"enabled": True}}})
    (found,) = (each for each in objects if each["metadata"]["name"].endswith("-dashboard"))
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    panels = json.loads(found["data"]["avatars.json"])["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > 15
    recorded = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    run(promtool, "check", "rules", file)
