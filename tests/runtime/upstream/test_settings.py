"""The settings of the upstream: where its keys come from, and that nothing shows them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from avatar_contracts.environment import Environment
from avatar_contracts.upstream import endpoints
from avatar_runtime.errors import SettingsError
from avatar_runtime.upstream import document
from avatar_runtime.upstream.settings import UpstreamSettings, read_upstream

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-not-to-be-shown"
SPEECH: dict[str, Any] = {
    "mode": "speech",
    "speech": {"url": "http://127.0.0.1:1/v1/audio/speech", "voice": "v", "apiKeyEnv": "MY_KEY"},
}


def read(upstream: object, **variables: str) -> UpstreamSettings:
    environment = Environment({"AVATAR_UPSTREAM": json.dumps(upstream), **variables})
    settings = read_upstream(environment)
    environment.check(SettingsError)
    return settings


def headers(settings: UpstreamSettings) -> dict[str, str]:
    (endpoint,) = endpoints(settings.upstream).values()
    return settings.headers(endpoint)


def test_without_the_variable_the_mode_is_drive() -> None:
    assert read_upstream(Environment({})).upstream is None
    assert read({"mode": "drive"}).upstream is None


def test_a_key_comes_from_its_variable() -> None:
    assert headers(read(SPEECH, MY_KEY=f" {KEY}\n")) == {"Authorization": f"Bearer {KEY}"}


def test_a_key_can_have_a_header_of_its_own() -> None:
    speech = {**SPEECH["speech"], "authorization": "api-key", "headers": {"x-team": "a"}}
    found = headers(read({**SPEECH, "speech": speech}, MY_KEY=KEY))
    assert found == {"x-team": "a", "api-key": KEY}


def test_a_mounted_key_replaces_the_variable_and_is_read_at_each_use(tmp_path: Path) -> None:
    file = tmp_path / "key"
    speech = {**SPEECH["speech"], "apiKeyFile": str(file)}
    settings = read({**SPEECH, "speech": speech}, MY_KEY="old")
    assert headers(settings)["Authorization"] == "Bearer old"
    file.write_text("new\n", encoding="utf-8")
    assert headers(settings)["Authorization"] == "Bearer new"
    file.write_text("with\nline ends", encoding="utf-8")
    assert headers(settings)["Authorization"] == "Bearer old"


def test_an_endpoint_without_a_key_gets_none() -> None:
    speech = {name: value for name, value in SPEECH["speech"].items() if name != "apiKeyEnv"}
    assert headers(read({**SPEECH, "speech": speech})) == {}


def test_settings_never_show_a_key() -> None:
    assert KEY not in repr(read(SPEECH, MY_KEY=KEY))
    with pytest.raises(SettingsError) as caught:
        read(SPEECH, MY_KEY=f"{KEY}\u00e9")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("upstream", "said"),
    [
        (SPEECH, "MY_KEY is not set"),
        ([], "AVATAR_UPSTREAM is '[]', must be a JSON object"),
        ({"mode": "speech"}, "upstream.speech is missing, must be an object with url and voice"),
        ({"mode": "bridge", "url": "http://a"}, "must be a ws:// or wss:// URL"),
    ],
)
def test_a_fault_names_the_field(upstream: object, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(upstream)
    assert said in str(caught.value)


def test_a_file_has_yaml_or_json(tmp_path: Path) -> None:
    for text in ("mode: bridge\nurl: ws://a\n", '{"mode": "bridge", "url": "ws://a"}'):
        (tmp_path / "upstream").write_text(text, encoding="utf-8")
        found = document.load(tmp_path / "upstream")
        assert json.loads(found or "") == {"mode": "bridge", "url": "ws://a"}
    assert document.load(None) is None


@pytest.mark.parametrize("text", ["- a", "a: [", "x" * (1 << 18) + "x", "? [a]\n: b", "\x00"])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "upstream").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="--upstream is"):
        document.load(tmp_path / "upstream")


def test_serve_refuses_a_wrong_file_with_status_2(tmp_path: Path) -> None:
    (tmp_path / "upstream").write_text("mode: speech", encoding="utf-8")
    command = [sys.executable, "-m", "avatar_runtime", "serve", "--upstream"]
    done = subprocess.run(
        [*command, str(tmp_path / "upstream"), "--model", "m", "--avatars", "a"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "upstream.speech is missing" in done.stderr
