"""The errors of the process node.

NodeError
├── FileError            the nodes file is wrong
├── ConfigError          a container cannot be configured yet: CreateContainerConfigError
├── MountError           a volume does not exist yet: FailedMount
├── StartError           a command cannot be executed
└── ApiError             the API server rejected a request or is not reachable
"""

from __future__ import annotations


class NodeError(Exception):
    """Base of all errors; the message is one sentence for the user of the cluster."""


class FileError(NodeError):
    """The nodes file is wrong; the message names the key."""


class ConfigError(NodeError):
    """A Secret, ConfigMap, key or field that a container requires does not exist."""


class MountError(NodeError):
    """A volume cannot be set up yet."""


class StartError(NodeError):
    """A command cannot be executed."""


class ApiError(NodeError):
    """The API server rejected a request, or is not reachable (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}" if status else message)
        self.status = status
