"""Which tokens a pod accepts: from its environment, or from a folder that the kubelet updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_runtime.serving.pod_tokens import PodTokens
from avatar_runtime.settings import AdminSettings

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, **tokens: str) -> None:
    for name, token in tokens.items():
        (folder / name.replace("_", "-")).write_text(f"{token}\n", encoding="utf-8")


def in_folder(folder: Path) -> PodTokens:
    return PodTokens(AdminSettings(token="", metrics_open=False, token_folder=str(folder)))


def test_without_any_token_nothing_is_required() -> None:
    tokens = PodTokens(AdminSettings(token="", metrics_open=False))
    assert (tokens.are_required, tokens.session_is_required) == (False, False)
    assert (tokens.control(), tokens.state(), tokens.session()) == ((), (), ())


def test_tokens_of_the_environment_are_used() -> None:
    given = AdminSettings("c", metrics_open=False, state_token="s", session_token="x")
    tokens = PodTokens(given)
    assert (tokens.are_required, tokens.session_is_required) == (True, True)
    assert (tokens.control(), tokens.state(), tokens.session()) == (("c",), ("s",), ("x",))
    assert not {"c", "s", "x"} & set(repr(given).split("'"))


def test_files_are_read_at_each_use(tmp_path: Path) -> None:
    tokens = in_folder(tmp_path)
    write(tmp_path, token="c1", state_token="s1", session_token="x1")
    assert (tokens.control(), tokens.state(), tokens.session()) == (("c1",), ("s1",), ("x1",))
    write(tmp_path, token="c2", previous_token="c1")
    assert tokens.control() == ("c2", "c1")
    (tmp_path / "previous-token").unlink()
    assert tokens.control() == ("c2",)


def test_a_folder_without_tokens_accepts_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        tokens = in_folder(folder)
        assert tokens.are_required
        assert tokens.session_is_required
        assert (tokens.control(), tokens.state(), tokens.session()) == ((), (), ())
    write(tmp_path, token="")
    (tmp_path / "state-token").write_bytes(b"\xff\xfe")
    assert (in_folder(tmp_path).control(), in_folder(tmp_path).state()) == ((), ())
