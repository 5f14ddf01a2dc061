"""A pod that pulls an image on a node, without a GPU: its type and its parser.

A rollout without a spare GPU gives a working pod up to make room. This pod proves before that the
new image can be pulled. The kubelet retries a failed pull, so the pod also finds out when the image
has become available.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.owners import owner_of
from avatar_operator import names
from avatar_operator.core.resources import pod_status
from avatar_operator.core.resources.fields import split_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.fields import Fields

_STARTING: Final = ("", "ContainerCreating", "PodInitializing")
_PULL_FAILURES: Final = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """An image check pod."""

    name: str
    """Names the service and its spec."""
    uid: str
    resource_version: str
    owner_uid: str
    """UID of the service."""
    pulled: bool
    """Whether the image is on the node; whether its program runs does not matter."""
    trouble: str
    """Why the image was not pulled; empty if no reason is known."""
    terminating: bool


def parse_image_check(body: Mapping[str, object]) -> ImageCheck | None:
    """Return the image check pod that a body describes, or None if it is another pod."""
    metadata, spec, status = split_body(body)
    owner = owner_of(body)
    if owner is None or not is_image_check(spec):
        return None
    pulled, trouble = _result(status)
    return ImageCheck(
        name=metadata.text("name"),
        uid=metadata.text("uid"),
        resource_version=metadata.text("resourceVersion"),
        owner_uid=owner.uid,
        pulled=pulled,
        trouble=trouble,
        terminating=metadata.has("deletionTimestamp"),
    )


def is_image_check(spec: Fields) -> bool:
    """Return whether the spec is that of an image check; unlike labels, nobody can change it."""
    containers = spec.children("containers")
    return any(each.text("name") == names.IMAGE_CHECK_CONTAINER for each in containers)


def _result(status: Fields) -> tuple[bool, str]:
    """Return whether the image was pulled, and else why not."""
    why = pod_status.unscheduled(status)
    if why is not None:
        return False, f"not scheduled: {why}"
    container = next(status.children("containerStatuses"), None)
    if container is None:
        return False, status.text("message") or status.text("reason")
    state = container.child("state")
    if state.has("running") or state.has("terminated") or container.text("imageID"):
        return True, ""
    reason = state.child("waiting").text("reason")
    if reason in _PULL_FAILURES:
        return False, f"{reason}: {state.child('waiting').text('message')}"
    # Other reasons, such as CreateContainerError, come after the pull.
    return reason not in _STARTING, ""
