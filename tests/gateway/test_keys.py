"""Where the gateway keys come from, and how a rotation reaches a running gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_contracts.tokens import control_token, gateway_key, gateway_token
from avatar_gateway import settings
from avatar_gateway.keys import GatewayKeys

if TYPE_CHECKING:
    from pathlib import Path

BASE = {"AVATAR_API_KEY": "k" * 16}
FIRST, SECOND = "first-gateway-key", "second-gateway-key"


def read(**variables: str) -> settings.Settings:
    return settings.from_env({**BASE, **variables}, listen=None, admin=None)


def test_files_are_read_at_each_use(tmp_path: Path) -> None:
    chosen = read(AVATAR_GATEWAY_KEY_FOLDER=str(tmp_path)).keys
    assert chosen.gateway.read() == ()
    assert chosen.admin_tokens() == ()
    (tmp_path / "key").write_text(f"{FIRST}\n")
    assert chosen.gateway.read() == (FIRST,)
    (tmp_path / "key").write_text(SECOND)
    (tmp_path / "previous-key").write_text(FIRST)
    assert chosen.gateway.read() == (SECOND, FIRST)
    assert chosen.admin_tokens() == (gateway_token(SECOND), gateway_token(FIRST))


def test_a_key_can_be_given_as_text_and_is_hidden() -> None:
    chosen = read(AVATAR_GATEWAY_KEY=FIRST).keys
    assert chosen.gateway == GatewayKeys("", FIRST)
    assert FIRST not in repr(chosen)


def test_a_master_key_is_not_kept() -> None:
    chosen = read(AVATAR_CONTROL_MASTER="m" * 16).keys
    assert chosen.gateway.read() == (gateway_key("m" * 16),)
    assert control_token("m" * 16, "a/b") != control_token(gateway_key("m" * 16), "a/b")
