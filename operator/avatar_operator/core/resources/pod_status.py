"""Reads the status of a pod: whether it runs, since when it waits, and why it does not start."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Final

from avatar_contracts.documents import parse_object
from avatar_operator import names
from avatar_operator.core.resources.fields import find_condition
from avatar_operator.core.resources.log_lines import last_line

if TYPE_CHECKING:
    from avatar_contracts.fields import Fields

LONGEST_TROUBLE: Final = 200  # characters of `trouble`


_SCHEDULED: Final = "PodScheduled"


def _runtime_container(status: Fields) -> Fields | None:
    for container in status.children("containerStatuses"):
        if container.text("name") == names.CONTAINER:
            return container
    return None


def _starting_container(status: Fields) -> Fields | None:
    """Return the container that the start of the pod waits for: a download, or the runtime.

    Other init containers belong to the cluster; those of service meshes run as long as the pod.
    """
    for container in status.children("initContainerStatuses"):
        ended = container.child("state").child("terminated")
        complete = ended.integer("exitCode", 1, -(2**31), 2**31) == 0
        if container.text("name").startswith(names.CACHE_CONTAINER_PREFIX) and not complete:
            return container
    return _runtime_container(status)


def is_running(status: Fields) -> bool:
    """Return whether the runtime container is running."""
    container = _runtime_container(status)
    return container is not None and container.child("state").has("running")


def restarts(status: Fields) -> int:
    """Return how often the container that the pod waits for, or runs, was restarted."""
    container = _starting_container(status)
    return 0 if container is None else container.integer("restartCount", 0, 0, 2**31)


def waiting_reason(status: Fields) -> str:
    """Return why the runtime container, or the init container before it, waits; "" if not."""
    container = _starting_container(status)
    return "" if container is None else container.child("state").child("waiting").text("reason")


def rejected_at(status: Fields) -> float | None:
    """Return since when the scheduler finds no node, None if it makes room for the pod."""
    condition = find_condition(status, _SCHEDULED)
    if (
        condition is None
        or (condition.text("status"), condition.text("reason")) != ("False", "Unschedulable")
        or status.text("nominatedNodeName")
    ):
        return None
    return parse_seconds(condition.text("lastTransitionTime")) or 0.0


def unscheduled(status: Fields) -> str | None:
    """Return what the scheduler says of a pod that it finds no node for, None if it does not."""
    condition = find_condition(status, _SCHEDULED)
    if condition is None or condition.text("status") != "False":
        return None
    return condition.text("message")


def bound_at(status: Fields) -> float | None:
    """Return when the pod was bound to its node, None if it was not."""
    condition = find_condition(status, _SCHEDULED)
    if condition is None or condition.text("status") != "True":
        return None
    return parse_seconds(condition.text("lastTransitionTime"))


def _condensed(message: str) -> str:
    """Return the first sentence of a message of the scheduler, without the values of taints.

    It counts the nodes by reason. The values may name other tenants, and what follows describes
    preemption.
    """
    return re.sub(r"\s*\{[^}]*\}", "", message.split(". ")[0]).rstrip(". ")


def trouble(status: Fields) -> str:
    """Return why the pod does not start, "" if no reason is known."""
    condition = find_condition(status, _SCHEDULED)
    if condition is not None and condition.text("status") == "False":
        why = _condensed(condition.text("message")) or condition.text("reason")
        return _sentence(f"not scheduled: {why}")
    container = _starting_container(status)
    if container is not None:
        waiting = container.child("state").child("waiting")
        reason = waiting.text("reason")
        if reason == "CrashLoopBackOff":  # its message repeats the names of pod and container
            return _sentence(f"{reason}: {_last_message(container.child('lastState'))}")
        if reason not in ("", "ContainerCreating", "PodInitializing"):
            return _sentence(f"{reason}: {waiting.text('message')}")
        if container.child("state").has("terminated"):
            return _sentence(_last_message(container.child("state")))
        if not container.flag("ready", False) and container.child("lastState").has("terminated"):
            return _sentence(f"restarted after {_last_message(container.child('lastState'))}")
    return _sentence(status.text("message") or status.text("reason"))


def _last_message(state: Fields) -> str:
    """Return how a container ended and the last line of its log."""
    ended = state.child("terminated")
    line = last_line(ended.text("message"))
    reason = ended.text("reason")
    how = reason if reason not in ("", "Error") else "exit code"
    how = f"{how} {ended.integer('exitCode', 0, -(2**31), 2**31)}"
    return f"{how}: {_message(line)}" if line else how


def _message(line: str) -> str:
    """Return the message of a log line: that of a JSON record, or else the line itself."""
    try:
        message = parse_object(line).get("message")
    except ValueError:
        return line
    return message if isinstance(message, str) and message.strip() else line


def _sentence(text: str) -> str:
    """Return the text as one line of at most `LONGEST_TROUBLE` characters."""
    line = " ".join(text.split()).rstrip(": ")
    return line if len(line) <= LONGEST_TROUBLE else f"{line[: LONGEST_TROUBLE - 1]}…"


def ended_at(status: Fields, created_at: float) -> float:
    """Return when the last container ended, or the creation time if none has started."""
    ends = [
        parse_seconds(container.child("state").child("terminated").text("finishedAt"))
        for container in status.children("containerStatuses")
    ]
    return max((end for end in ends if end is not None), default=created_at)


def parse_seconds(timestamp: str) -> float | None:
    """Return a time of the API server in seconds since 1970, or None if it is not a time."""
    try:
        return datetime.datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None
