"""Errors of the process node.

NodeError
├── FileError            the nodes file is wrong
├── ConfigError          a container cannot be configured yet: CreateContainerConfigError
├── MountError           a volume is not there yet: FailedMount
├── StartError           a command cannot be executed
└── ApiError             the API server refused a request or could not be reached
"""

from __future__ import annotations


class NodeError(Exception):
    """Root of the tree; the message is one sentence for the person who runs the cluster."""


class FileError(NodeError):
    """The nodes file is wrong; the message names the key."""


class ConfigError(NodeError):
    """A Secret, ConfigMap, key or field that a container needs is not there."""


class MountError(NodeError):
    """A volume cannot be set up yet."""


class StartError(NodeError):
    """A command cannot be executed."""


class ApiError(NodeError):
    """The API server refused a request, or could not be reached (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}" if status else message)
        self.status = status
