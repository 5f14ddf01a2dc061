"""The nodes that may run the pods of AvatarServices and the Jobs of Avatars, and its parser."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from avatar_contracts.fields import Fields

CLASS_PATTERN: Final = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"


class Strategy(Enum):
    """Which GPU class is filled first."""

    PREFERRED = "preferred"
    CHEAPEST = "cheapest"
    FASTEST = "fastest"


class WhenFull(Enum):
    """What happens to a pod for which no GPU of the first class is free."""

    FALL_THROUGH = "fallThrough"  # it uses another class, or is not created
    WAIT = "wait"  # it is not created until the first class has a free GPU
    CREATE_PENDING = "createPending"  # it uses another class, or is created and waits for a node


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration of node taints."""

    key: str = ""
    """Empty with operator Exists: every key."""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    """Empty: every effect."""
    seconds: int | None = None
    """None: without a time limit."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which nodes may run the pods."""

    gpu_classes: tuple[str, ...] = ()
    """Names of GPUProfiles; empty: all."""
    strategy: Strategy = Strategy.PREFERRED
    when_full: WhenFull = WhenFull.FALL_THROUGH
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    tenant: str = ""
    """The AvatarTenant that the service belongs to, if it limits the GPU classes."""
    tenant_classes: tuple[str, ...] = ()
    """The GPU classes that the tenant may use."""

    def allows(self, gpu_class: str) -> bool:
        """Return whether pods may run on a GPU class."""
        if self.tenant and gpu_class not in self.tenant_classes:
            return False
        return not self.gpu_classes or gpu_class in self.gpu_classes


def parse_placement(fields: Fields) -> Placement:
    """Return which nodes may run pods; faults are recorded in `fields`."""
    return Placement(
        gpu_classes=fields.texts(
            "gpuClasses", pattern=CLASS_PATTERN, limit="the name of a GPUProfile", unique=True
        ),
        strategy=fields.choice("strategy", Strategy.PREFERRED),
        when_full=fields.choice("whenFull", WhenFull.FALL_THROUGH),
        node_selector=tuple(sorted(fields.strings("nodeSelector").items())),
        tolerations=tuple(parse_toleration(item) for item in fields.children("tolerations")),
    )


def parse_toleration(fields: Fields) -> Toleration:
    """Return a toleration; faults are recorded in `fields`."""
    return Toleration(
        key=fields.text("key"),
        operator=fields.one_of("operator", "Equal", ("Equal", "Exists")),
        value=fields.text("value"),
        effect=fields.one_of("effect", "", ("NoSchedule", "PreferNoSchedule", "NoExecute")),
        seconds=fields.optional_integer("tolerationSeconds", 0, 2**31),
    )
