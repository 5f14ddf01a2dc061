"""How many CPUs this process may use: the limit of its pod, not the number of cores of the node.

A library that starts one thread for each core of a node with 128 cores, in a pod that may use four,
spends the quota of a period in a few milliseconds; then the kernel stops every thread of the pod,
the event loop among them, until the period of 100 ms is over.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

Source = Literal["affinity", "quota"]

_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_V1_FOLDERS: Final = ("cpu,cpuacct", "cpuacct,cpu", "cpu")
_V1_PARTS: Final = ("quota", "period")
_DEEPEST: Final = 64
"""Levels of groups that are read; the kernel's files are not trusted to end."""

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What OpenMP, OpenBLAS (NumPy) and MKL read when they are loaded."""


@dataclass(frozen=True, slots=True)
class Cpus:
    """The CPUs of a process, and what limits them."""

    count: int
    """Threads that may compute at the same time, at least 1."""
    source: Source
    """`affinity`: the CPU set of the pod, or all cores of the node. `quota`: its CPU limit."""
    limit: float
    """The limit itself, in CPUs; a quota may be a fraction."""

    def __str__(self) -> str:
        why = "CPU quota of the cgroup" if self.source == "quota" else "CPUs of the process"
        return f"{self.count} ({why}: {self.limit:g})"


def find(
    cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP, affinity: int | None = None
) -> Cpus:
    """Return the CPUs that this process may use.

    The smallest quota of its cgroup and of all groups above counts, as
    https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
    https://docs.kernel.org/scheduler/sched-bwc.html (cgroup v1) describe it. A fraction is rounded
    down, but not below 1: a thread more than the quota would have all of them stopped. `affinity`
    is the number of CPUs that the scheduler may use for this process; by default it is read. It is
    never more than the CPU set of the cgroup.
    """
    cores = len(os.sched_getaffinity(0)) if affinity is None else affinity
    quotas = [*_quotas_v2(cgroups, membership), *_quotas_v1(cgroups, membership)]
    quota = min(quotas, default=float(cores))
    if quota < cores:
        return Cpus(max(1, int(quota)), "quota", quota)
    return Cpus(max(1, cores), "affinity", float(cores))


def limit_libraries(cpus: Cpus, environment: MutableMapping[str, str]) -> None:
    """Set the variables that native libraries read when they are loaded.

    A variable that is set stays. Without a quota nothing is set: the libraries know the CPUs of the
    process themselves, and some of them use one thread for each core instead of each hyperthread.
    """
    if cpus.source == "quota":
        for name in THREAD_VARIABLES:
            environment.setdefault(name, str(cpus.count))


def _quotas_v2(cgroups: Path, membership: Path) -> Iterator[float]:
    for folder in _groups(cgroups, _path_of(membership, "")):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2:
            yield from _quota(*words)


def _quotas_v1(cgroups: Path, membership: Path) -> Iterator[float]:
    for name in _V1_FOLDERS:
        if (cgroups / name).is_dir():
            for folder in _groups(cgroups / name, _path_of(membership, "cpu")):
                quota, period = (_read(folder / f"cpu.cfs_{part}_us") for part in _V1_PARTS)
                yield from _quota(quota, period)
            return


def _quota(quota: str, period: str) -> Iterator[float]:
    """Yield a quota in CPUs; nothing if there is none (`max`, -1) or it cannot be read."""
    try:
        micros, of = int(quota), int(period)
    except ValueError:
        return
    if micros > 0 and of > 0:
        yield micros / of


def _groups(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and of each group above it.

    In a container whose cgroup namespace is that of the node, the path is that of the node, but the
    folder of the container is mounted as the root: what does not exist is skipped.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")][:_DEEPEST]
    for count in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:count])


def _path_of(membership: Path, controller: str) -> str:
    """Return the path of the group with a controller; the controller of cgroup v2 is ""."""
    for line in _read(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            return path
    return "/"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
