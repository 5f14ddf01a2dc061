from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from avatar_runtime import settings
from avatar_runtime.audio import energy
from avatar_runtime.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

LEAST = {"AVATAR_MODEL": "/models", "AVATAR_AVATAR_FOLDER": "/avatars"}


def test_the_variables_of_a_pod_are_read() -> None:
    read = settings.from_env(
        {
            **LEAST,
            "AVATAR_SERVICE": "acme/concierge",
            "AVATAR_POD": "concierge-x",
            "AVATAR_POD_IP": "10.0.0.7",
            "AVATAR_GPU_CLASS": "rtx-4090",
            "AVATAR_CAPACITY": "5",
            "AVATAR_AVATARS": "anna, ben",
            "AVATAR_FPS": "20",
            "AVATAR_MAX_DURATION_S": "60",
            "AVATAR_IDLE_TIMEOUT_S": "30",
            "AVATAR_DRAIN_TIMEOUT_S": "90",
            "AVATAR_ADMIN_TOKEN": "s3cret",
            "AVATAR_GPU_PROFILE": '{"gpuClass": "rtx-4090"}',
            "AVATAR_DEVICE": "simulated:rtx-4090",
            "AVATAR_BATCH_SIZE": "16",
            "AVATAR_LISTEN": "0.0.0.0:8080",
            "AVATAR_ADMIN": "[::1]:9090",
            "AVATAR_METRICS_OPEN": "true",
            "AVATAR_SIMULATED_NEIGHBOUR": "/tmp/mib",
            "AVATAR_PRECISION": "bf16",
            "AVATAR_DECODER": "taesd",
            "AVATAR_MODEL_VERSION": "v1",
            "AVATAR_VERIFY_MODEL": "false",
            "AVATAR_LOG_FORMAT": "json",
            "AVATAR_TURN_DETECTION": "none",
            "AVATAR_GATEWAY_SERVICE_HOST": "10.0.0.1",
        }
    )
    assert read.sessions == settings.SessionSettings(
        5, ("anna", "ben"), 20, 60, 30, 90, turn_detection=None
    )
    assert read.engine.device == "simulated:rtx-4090"
    assert read.engine.batch_size == 16
    assert read.engine.simulated_neighbour == "/tmp/mib"
    engine = read.engine
    assert (engine.precision, engine.decoder, engine.version) == ("bf16", "taesd", "v1")
    assert not read.engine.verify
    assert read.sessions_listen == settings.Address("0.0.0.0", 8080)
    assert not read.sessions_listen.is_loopback
    assert read.admin_listen == settings.Address("::1", 9090)
    assert read.admin_listen.is_loopback
    assert read.admin.metrics_open
    assert "s3cret" not in repr(read)


def test_without_variables_the_defaults_serve_one_machine() -> None:
    read = settings.from_env(LEAST)
    assert read.sessions.capacity is None
    assert read.engine.device == "auto"
    assert read.sessions.avatars == ()
    assert read.sessions.fps == 25
    assert read.sessions_listen.is_loopback
    assert read.engine.gpu_profile is None
    assert (read.engine.precision, read.engine.decoder) == (None, "sd-vae")
    assert read.engine.verify
    assert read.audio == settings.AudioSettings(silence_dbfs=-50, lookahead_ms=0)
    assert read.audio.silence_dbfs == energy.SPEECH_DBFS


def test_commands_read_the_audio_settings() -> None:
    audio = settings.audio({"AVATAR_SILENCE_DBFS": "off", "AVATAR_LOOKAHEAD_MS": "120"})
    assert audio == settings.AudioSettings(None, 120)
    assert settings.audio({"AVATAR_SILENCE_DBFS": "-42"}).silence_dbfs == -42


def test_a_pod_of_a_service_uses_the_cpu_only_if_it_is_named() -> None:
    assert settings.device({"AVATAR_SERVICE": "acme/concierge"}) == "cuda"
    assert settings.device({"AVATAR_SERVICE": "acme/concierge", "AVATAR_DEVICE": "cpu"}) == "cpu"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AVATAR_CAPACITY", "0"),
        ("AVATAR_SILENCE_DBFS", "-91"),
        ("AVATAR_SILENCE_DBFS", "50"),
        ("AVATAR_SILENCE_DBFS", "--50"),
        ("AVATAR_LOOKAHEAD_MS", "60"),
        ("AVATAR_LOOKAHEAD_MS", "440"),
        ("AVATAR_CAPACITY", "-1"),
        ("AVATAR_CAPACITY", "1e3"),
        ("AVATAR_BATCH_SIZE", "many"),
        ("AVATAR_FPS", "30"),
        ("AVATAR_IDLE_TIMEOUT_S", "0"),
        ("AVATAR_DRAIN_TIMEOUT_S", "1.5"),
        ("AVATAR_LISTEN", "8080"),
        ("AVATAR_LISTEN", "127.0.0.1:http"),
        ("AVATAR_ADMIN", "127.0.0.1:70000"),
        ("AVATAR_METRICS_OPEN", "yes"),
        ("AVATAR_PRECISION", "int8"),
        ("AVATAR_DECODER", "vae"),
        ("AVATAR_MODEL_VERSION", "v2"),
        ("AVATAR_VERIFY_MODEL", "0"),
        ("AVATAR_LOG_FORMAT", "xml"),
        ("AVATAR_GPU_PROFILE", "{"),
        ("AVATAR_GPU_PROFILE", "[]"),
    ],
)
def test_an_error_names_the_variable_and_its_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is '") as wrong:
        settings.from_env({**LEAST, name: value})
    assert repr(value)[1:-1] in str(wrong.value)


def test_all_wrong_variables_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as wrong:
        settings.from_env({"AVATAR_MODEL": "", "AVATAR_CAPACITY": "0"})
    assert str(wrong.value).split("; ") == [
        "AVATAR_CAPACITY is '0', must be a whole number from 1 to 1024",
        "AVATAR_MODEL is not set, must be set",
        "AVATAR_AVATAR_FOLDER is not set, must be set",
    ]


@pytest.mark.parametrize(
    ("address", "url"),
    [("10.0.0.7", "http://10.0.0.7:9090"), ("fd00::7", "http://[fd00::7]:9090")],
    ids=["v4", "v6"],
)
def test_the_drain_hook_uses_the_admin_listener_of_its_pod(address: str, url: str) -> None:
    variables = {"AVATAR_POD_IP": address, "AVATAR_ADMIN_TOKEN": "s3cret"}
    read = settings.drain_from_env(variables)
    assert (read.url, read.admin.token, read.timeout_s) == (url, "s3cret", 3600)
    assert "s3cret" not in repr(read)


def test_a_page_prepares_avatars_only_on_this_machine(tmp_path: Path) -> None:
    variables = {**LEAST, "AVATAR_PREPARE": "true", "AVATAR_AVATAR_FOLDER": str(tmp_path)}
    assert settings.from_env(variables).prepare
    assert not settings.from_env(LEAST).prepare
    with pytest.raises(
        SettingsError, match=r"AVATAR_LISTEN is '0\.0\.0\.0:8080', must be a loopback"
    ):
        settings.from_env({**variables, "AVATAR_LISTEN": "0.0.0.0:8080"})
    with pytest.raises(SettingsError, match="AVATAR_AVATARS is 'anna', must be unset"):
        settings.from_env({**variables, "AVATAR_AVATARS": "anna"})
    missing = str(tmp_path / "missing")
    with pytest.raises(
        SettingsError, match=r"AVATAR_AVATAR_FOLDER is .* must be a writable folder"
    ):
        settings.from_env({**variables, "AVATAR_AVATAR_FOLDER": missing})
