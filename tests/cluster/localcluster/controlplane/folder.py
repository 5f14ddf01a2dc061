"""The state folder of a cluster: its lock, its content and its record."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from localcluster import errors
from localcluster.controlplane import certificates, components, kubeconfigs
from localcluster.controlplane.components import Ports
from localcluster.controlplane.processes import Identity

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from localcluster.paths import Layout

KUBECONFIG_USERS = (
    components.CONTROLLER_MANAGER,
    components.SCHEDULER,
    components.PROCESS_NODE,
)


@dataclass(frozen=True, slots=True)
class State:
    """The record of a running cluster; processes are stored with their start time."""

    owner: Identity
    supervisor: Identity
    ports: Ports
    start_s: float | None = None
    """Seconds from the first process to a ready control plane; None until all are ready."""


def claim(layout: Layout) -> None:
    """Claim the folder.

    Raises:
        ForeignFolder: it contains something else.
    """
    layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not layout.marker.exists() and any(layout.root.iterdir()):
        raise errors.ForeignFolder(layout.root)
    layout.marker.touch()


@contextlib.contextmanager
def held(layout: Layout) -> Iterator[None]:
    """Lock a claimed folder; the kernel releases the lock when this process ends.

    Raises:
        AlreadyRunning: another process holds the lock.
    """
    with layout.marker.open("r") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = read(layout)
            raise errors.AlreadyRunning(layout.root, state.owner.pid if state else 0) from None
        yield


def fill(
    layout: Layout, binaries: Mapping[str, Path], ports: Ports, now: datetime.datetime
) -> None:
    """Reset the folder: no data, new certificates, links to the binaries."""
    for stale in (layout.etcd_data, layout.pki, layout.bin, layout.nodes, layout.logs):
        shutil.rmtree(stale, ignore_errors=True)
    for folder in (layout.bin, layout.logs, layout.home, layout.nodes):
        folder.mkdir(parents=True, exist_ok=True)
    layout.etcd_data.mkdir(mode=0o700)
    for name, path in binaries.items():
        (layout.bin / name).symlink_to(path.absolute())
    pki = certificates.Pki(layout.pki)
    certificates.write(pki, now, (ports.api_address,))
    layout.audit_policy.write_text(components.AUDIT_POLICY)
    admin = kubeconfigs.certificate_user(pki, "admin")
    kubeconfigs.write(layout.admin_kubeconfig, ports.server, pki.ca, admin, "default")
    for user in KUBECONFIG_USERS:
        credentials = kubeconfigs.certificate_user(pki, user)
        kubeconfigs.write(layout.kubeconfig(user), ports.server, pki.ca, credentials, "default")


def write(layout: Layout, state: State) -> None:
    """Write the record of the cluster atomically."""
    partial = layout.state_file.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(state), indent=2) + "\n")
    partial.rename(layout.state_file)


def read(layout: Layout) -> State | None:
    """Return the record, or None."""
    try:
        fields = json.loads(layout.state_file.read_text())
    except FileNotFoundError:
        return None
    return State(
        owner=Identity(**fields["owner"]),
        supervisor=Identity(**fields["supervisor"]),
        ports=Ports(**fields["ports"]),
        start_s=fields["start_s"],
    )


def forget(layout: Layout) -> None:
    """Remove the record of a stopped cluster."""
    layout.state_file.unlink(missing_ok=True)
