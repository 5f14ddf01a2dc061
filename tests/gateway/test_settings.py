from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from avatar_contracts.labels import LogFormat
from avatar_contracts.tokens import gateway_token
from avatar_gateway import errors, settings

if TYPE_CHECKING:
    from pathlib import Path

LEAST = {"AVATAR_API_KEY": "k" * 16, "AVATAR_GATEWAY_KEY": "m" * 16}


def _read(**more: str) -> settings.Settings:
    return settings.from_env({**LEAST, **more}, listen=None, admin=None)


def test_only_the_two_secrets_are_required() -> None:
    read = _read()
    assert read.sessions == settings.Address("0.0.0.0", 8080)
    assert read.admin == settings.Address("0.0.0.0", 9090)
    assert read.keys.admin_tokens() == (gateway_token("m" * 16),)
    assert (read.namespaces, read.metrics_open, read.drain_timeout_s) == ((), False, 3600)


def test_everything_can_be_set() -> None:
    read = _read(
        AVATAR_GATEWAY_LISTEN="[::1]:80",
        AVATAR_GATEWAY_ADMIN="127.0.0.1:0",
        AVATAR_GATEWAY_DRAIN_TIMEOUT_S="1.5",
        AVATAR_ADMIN_TOKEN="t",
        AVATAR_WATCH_NAMESPACES="a, b,",
        AVATAR_METRICS_OPEN="true",
        AVATAR_LOG_FORMAT="json",
        AVATAR_POD="gateway-1",
        KUBECONFIG="/some/file",
    )
    assert read.sessions == settings.Address("::1", 80)
    assert read.keys.admin_tokens() == ("t",)
    assert (read.namespaces, read.drain_timeout_s, read.metrics_open) == (("a", "b"), 1.5, True)
    assert read.log_format is LogFormat.JSON
    assert _read().log_format is LogFormat.TEXT
    assert (read.pod, read.kubeconfig) == ("gateway-1", "/some/file")


def test_the_limits_of_connections_can_be_set() -> None:
    assert _read().limits == settings.Limits(2000, 8 * 2**20, 64 * 1024, 128 * 2**20)
    read = _read(
        AVATAR_GATEWAY_MAX_FRAMES_PER_S="500",
        AVATAR_GATEWAY_MAX_BYTES_PER_S="2e6",
        AVATAR_GATEWAY_HELD_BYTES="1024",
        AVATAR_GATEWAY_BUFFER_BYTES="2000000",
        AVATAR_GATEWAY_MAX_CONNECTIONS="100",
        AVATAR_GATEWAY_MAX_CONNECTIONS_PER_ADDRESS="10",
        AVATAR_GATEWAY_TRUSTED_PROXIES="10.0.0.0/8, fd00::1",
        AVATAR_GATEWAY_DRAIN_DELAY_S="7.5",
    )
    proxies = (ip_network("10.0.0.0/8"), ip_network("fd00::1"))
    assert read.limits == settings.Limits(500, 2e6, 1024, 2_000_000, 100, 10, proxies)
    assert (read.drain_delay_s, _read().drain_delay_s) == (7.5, 0)


def test_arguments_take_precedence_over_variables() -> None:
    env = {**LEAST, "AVATAR_GATEWAY_LISTEN": "h:1", "AVATAR_GATEWAY_ADMIN": "h:2"}
    read = settings.from_env(env, listen="i:3", admin="i:4")
    assert (read.sessions, read.admin) == (settings.Address("i", 3), settings.Address("i", 4))


def test_a_pod_uses_its_service_account() -> None:
    assert _read(KUBERNETES_SERVICE_HOST="10.0.0.1", KUBECONFIG="/x").kubeconfig is None


def test_the_service_variables_of_kubernetes_are_ignored() -> None:
    _read(
        AVATAR_GATEWAY_SERVICE_HOST="10.0.0.1",
        AVATAR_GATEWAY_SERVICE_PORT_SESSIONS="80",
        AVATAR_GATEWAY_PORT="tcp://10.0.0.1:80",
        AVATAR_GATEWAY_PORT_80_TCP_ADDR="10.0.0.1",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AVATAR_API_KEY", ""),
        ("AVATAR_API_KEY", "short"),
        ("AVATAR_GATEWAY_KEY", ""),
        ("AVATAR_GATEWAY_KEY", "short"),
        ("AVATAR_GATEWAY_LISTEN", "8080"),
        ("AVATAR_GATEWAY_LISTEN", "h:99999"),
        ("AVATAR_GATEWAY_ADMIN", "h:x"),
        ("AVATAR_GATEWAY_DRAIN_TIMEOUT_S", "-1"),
        ("AVATAR_GATEWAY_DRAIN_TIMEOUT_S", "nan"),
        ("AVATAR_GATEWAY_DRAIN_TIMEOUT_S", "soon"),
        ("AVATAR_GATEWAY_MAX_FRAMES_PER_S", "100"),
        ("AVATAR_GATEWAY_MAX_BYTES_PER_S", "1000"),
        ("AVATAR_GATEWAY_HELD_BYTES", "65537"),
        ("AVATAR_GATEWAY_MAX_CONNECTIONS", "0"),
        ("AVATAR_GATEWAY_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("AVATAR_GATEWAY_TENANTS", "maybe"),
        ("AVATAR_GATEWAY_KEYS_NAMESPACE", "keys/secrets"),
        ("AVATAR_GATEWAY_KEYS_NAMESPACE", "Keys"),
        ("AVATAR_GATEWAY_DRAIN_DELAY_S", "601"),
        ("AVATAR_GATEWAY_BUFFER_BYTES", "0"),
        ("AVATAR_GATEWAY_SHARED_STATE_URL", "http://cache:6379"),
        ("AVATAR_GATEWAY_SHARED_STATE_URL", "redis://:short@cache:99999"),
        ("AVATAR_GATEWAY_SHARED_STATE_URL", "redis://"),
        ("AVATAR_METRICS_OPEN", "yes"),
        ("AVATAR_LOG_FORMAT", "xml"),
        ("AVATAR_GATEWAY_LISTENS", "h:1"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(errors.SettingsError, match=name) as refused:
        _read(**{name: value})
    assert "short" not in str(refused.value)


def test_secrets_are_hidden() -> None:
    shown = repr(_read(AVATAR_ADMIN_TOKEN="t-t-t"))
    assert not any(secret in shown for secret in ("k" * 16, "m" * 16, "t-t-t"))


@pytest.mark.parametrize("url", ["redis://cache", "rediss://me:pw@[::1]:6380/2", "unix:///run/x"])
def test_the_server_of_the_shared_state_is_read_and_hidden(url: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    found = _read(
        AVATAR_GATEWAY_SHARED_STATE_URL=url,
        AVATAR_GATEWAY_SHARED_STATE_PASSWORD_FILE=str(file),
    )
    assert found.shared_state.url == url
    assert found.shared_state.read_password() == "first"
    file.write_text("second")
    assert found.shared_state.read_password() == "second"
    assert url not in repr(found)
    hidden = _read(AVATAR_GATEWAY_SHARED_STATE_PASSWORD="p-p-p").shared_state
    assert "p-p-p" not in repr(hidden)
    assert hidden.read_password() == "p-p-p"


def test_all_wrong_variables_are_named_at_once() -> None:
    wrong = {"AVATAR_API_KEY": "short", "AVATAR_METRICS_OPEN": "yes", "AVATAR_GATEWAY_PORTS": "1"}
    with pytest.raises(errors.SettingsError) as refused:
        settings.from_env(wrong, listen="nowhere", admin=None)
    assert {fault.variable for fault in refused.value.faults} == {
        *wrong,
        "AVATAR_GATEWAY_KEY_FOLDER",
        "AVATAR_GATEWAY_LISTEN",
    }


def test_the_tenants_are_followed_without_keys_by_default() -> None:
    assert _read().tenants == settings.Tenants(enabled=True, keys_namespace="")
    chosen = _read(AVATAR_GATEWAY_TENANTS="false", AVATAR_GATEWAY_KEYS_NAMESPACE="avatar-keys")
    assert chosen.tenants == settings.Tenants(enabled=False, keys_namespace="avatar-keys")
