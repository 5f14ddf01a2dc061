"""How a process sees its volumes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.node.view import Command, Mount, keeping, rewrite, rewritten, wrapped

MOUNTS = (
    Mount("/models", Path("/state/v/models")),
    Mount("/models/extra", Path("/state/v/extra")),
    Mount("/opt/avatar", Path("/repo/examples"), read_only=True),
)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("/models", "/state/v/models"),
        ("/models/demo", "/state/v/models/demo"),
        ("--model=/models/demo", "--model=/state/v/models/demo"),
        ("/models/extra/a", "/state/v/extra/a"),
        ("/models/extras", "/state/v/models/extras"),
        ("/models:/opt/avatar/x", "/state/v/models:/repo/examples/x"),
        ('{"path": "/models"}', '{"path": "/state/v/models"}'),
        ("file:///models/x", "file:///models/x"),
        ("/models2", "/models2"),
        ("/srv/models", "/srv/models"),
        ("./models", "./models"),
        ("models", "models"),
    ],
)
def test_whole_path_prefixes_are_rewritten(text: str, result: str) -> None:
    assert rewrite(text, MOUNTS) == result


@given(st.text("/amodels-.:= "))
def test_text_without_a_mount_path_is_unchanged(text: str) -> None:
    assert "/models" in text or rewrite(text, MOUNTS) == text


@given(st.lists(st.sampled_from(["/models", "/opt/avatar", "/models/extra", "x"]), max_size=6))
def test_inserted_paths_are_not_rewritten_again(parts: list[str]) -> None:
    mounts = (*MOUNTS, Mount("/state", Path("/wrong")), Mount("/repo", Path("/wrong")))
    assert "wrong" not in rewrite(" ".join(parts), mounts)


def test_nothing_is_rewritten_without_mounts() -> None:
    assert rewrite("/models", ()) == "/models"
    assert rewrite("/models", (Mount("/", Path("/elsewhere")),)) == "/models"


def test_arguments_environment_and_folder_are_rewritten() -> None:
    command = Command(("cat", "/models/a"), {"M": "/models"}, "/opt/avatar")
    assert rewritten(command, MOUNTS) == Command(
        ("cat", "/state/v/models/a"), {"M": "/state/v/models"}, "/repo/examples"
    )


HOST = {"/": ["bin", "opt", "run"], "/opt": ["other"]}


def bwrap_words(*mounts: Mount) -> list[str]:
    existing = {"/", "/bin", "/opt", "/opt/other", "/run"}
    command = wrapped(
        Command(("true",), {}, "/home"),
        mounts,
        "bwrap",
        listing=lambda folder: HOST[folder],
        exists=existing.__contains__,
    )
    return list(command.words)


def follows(words: list[str], *wanted: str) -> bool:
    return any(words[i : i + len(wanted)] == list(wanted) for i in range(len(words)))


def test_a_new_mount_point_is_not_created_on_the_host() -> None:
    words = bwrap_words(Mount("/opt/avatar", Path("/repo"), read_only=True))
    assert follows(words, "--tmpfs", "/opt", "--dev-bind-try", "/opt/other", "/opt/other")
    assert follows(words, "--ro-bind", "/repo", "/opt/avatar", "--chdir", "/home", "--", "true")
    assert words.index("/opt/avatar") > words.index("/opt/other")


def test_an_existing_folder_is_covered_without_opening_its_parent() -> None:
    words = bwrap_words(Mount("/opt/other", Path("/repo")))
    assert not follows(words, "--tmpfs", "/opt")
    assert follows(words, "--bind", "/repo", "/opt/other")


def test_outer_mounts_come_before_inner_ones() -> None:
    words = bwrap_words(Mount("/models/a/b", Path("/2")), Mount("/models", Path("/1")))
    assert words.index("/1") < words.index("/2")


def test_a_mount_over_a_folder_of_the_node_keeps_that_folder_visible() -> None:
    tmp = Mount("/tmp", Path("/state/pods/1/tmp"))
    pod, elsewhere = Path("/tmp/cluster/pods/1"), Path("/repository")
    kept = keeping((tmp,), (pod, elsewhere))
    assert kept == (tmp, Mount("/tmp/cluster/pods/1", pod))
    assert rewrite("/tmp/cluster/pods/1/home", kept) == "/tmp/cluster/pods/1/home"
    assert rewrite("/tmp/upload", kept) == "/state/pods/1/tmp/upload"
