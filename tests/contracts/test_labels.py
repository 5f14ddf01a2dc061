"""The names that users and running pods rely on."""

from __future__ import annotations

from typing import Any

from avatar_contracts import labels
from avatar_operator import names
from avatar_runtime import settings


def test_names_that_running_pods_carry_stay() -> None:
    assert labels.LABEL_SERVICE == "avatar.musetalk.io/service"
    assert labels.LABEL_RESERVE == "avatar.musetalk.io/reserve"
    assert labels.LABEL_MADE_FOR == "avatar.musetalk.io/made-for"
    assert (labels.LABEL_NAME, labels.RUNTIME_NAME) == ("app.kubernetes.io/name", "avatar-runtime")
    assert (labels.SESSIONS_PORT, labels.ADMIN_PORT) == (8080, 9090)
    assert (labels.STATE_PATH, labels.DRAIN_PATH) == ("/control/v1/state", "/control/v1/drain")


def test_operator_uses_the_same_names() -> None:
    shared = {name for name in vars(labels) if name.isupper()} & vars(names).keys()
    assert {"GROUP", "LABEL_SERVICE", "ADMIN_PORT"} <= shared
    assert [name for name in shared if getattr(names, name) is not getattr(labels, name)] == []


class Recorded(dict[str, str]):
    """An environment that records the variables that were asked for."""

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__(variables)
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def test_runtime_reads_each_variable_that_the_operator_may_set() -> None:
    # The variables of keys are read only if the upstream names them.
    named = {name: value for name, value in vars(labels).items() if name.startswith("ENV_")}
    shared = {value for value in named.values() if isinstance(value, str)}
    environment = Recorded({"AVATAR_MODEL": "/model", "AVATAR_AVATAR_FOLDER": "/avatars"})
    settings.from_env(environment)
    assert labels.ENV_SERVICE in shared
    of_downloads = {labels.ENV_DOWNLOAD_AUTHORIZATION}  # `avatar-runtime cache-model` reads it
    assert shared - environment.read == of_downloads
