"""The errors of the image builds.

ImagesError
├── MachineUnfit       this machine cannot build images: not root, or a program is missing
├── CommandFailed      buildah, debootstrap, pip or the SBOM tool failed
└── NotReproducible    two builds of the same inputs have different layers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localcluster import errors

if TYPE_CHECKING:
    from collections.abc import Sequence


class ImagesError(errors.LocalClusterError):
    """Base of the errors of the image builds."""


class MachineUnfit(ImagesError):
    """This machine cannot build images."""


class CommandFailed(ImagesError):
    """A program ended with an error."""

    def __init__(self, program: str, status: int, output: str) -> None:
        super().__init__(program, status, output)
        self.program = program
        self.status = status
        self.output = output

    def __str__(self) -> str:
        return f"{self.program} failed with status {self.status}:\n{self.output}"


class NotReproducible(ImagesError):
    """Two builds of the same inputs have different layers."""

    def __init__(self, name: str, first: Sequence[str], second: Sequence[str]) -> None:
        super().__init__(name, first, second)
        self.name = name
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return f"two builds of {self.name} differ: layers {self.first} and {self.second}"
