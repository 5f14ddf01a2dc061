"""The CPUs of a process, from files of cgroups as the kernel writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime import cpus
from avatar_runtime.cpus import Cpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Make:
    """Write files of a fake root of cgroups; return the folder that has `cgroups` and `self`."""

    def write(membership: str, **files: str) -> Path:
        (tmp_path / "self").write_text(membership)
        (tmp_path / "cgroups").mkdir(exist_ok=True)
        for name, text in files.items():
            path = tmp_path / "cgroups" / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def _find(root: Path, cores: int) -> Cpus:
    return cpus.find(root / "cgroups", root / "self", cores)


def test_the_quota_of_cgroup_v2_counts_and_not_the_cores_of_the_node(write: Make) -> None:
    root = write("0::/\n", cpu_dot_max="400000 100000\n")
    assert _find(root, 128) == Cpus(4, "quota", 4.0)


def test_the_smallest_quota_of_the_groups_above_counts(write: Make) -> None:
    root = write(
        "0::/kubepods/pod1/main\n",
        kubepods__cpu_dot_max="800000 100000",
        kubepods__pod1__cpu_dot_max="200000 100000",
        kubepods__pod1__main__cpu_dot_max="max 100000",
    )
    assert _find(root, 16) == Cpus(2, "quota", 2.0)


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpuacct,cpu", "cpu"])
def test_the_quota_of_cgroup_v1_counts(write: Make, tmp_path: Path, folder: str) -> None:
    write(f"11:memory:/a\n4:{folder}:/kubepods/pod1\n")
    group = tmp_path / "cgroups" / folder / "kubepods" / "pod1"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("350000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert _find(tmp_path, 64) == Cpus(3, "quota", 3.5)


def test_a_path_of_the_node_is_read_from_the_mounted_root(write: Make, tmp_path: Path) -> None:
    write("4:cpu,cpuacct:/kubepods/unknown/here\n")
    group = tmp_path / "cgroups" / "cpu,cpuacct"
    group.mkdir()
    (group / "cpu.cfs_quota_us").write_text("200000")
    (group / "cpu.cfs_period_us").write_text("100000")
    assert _find(tmp_path, 64) == Cpus(2, "quota", 2.0)


@pytest.mark.parametrize(
    "text",
    ["max 100000", "", "-1 100000", "0 100000", "100000 0", "wrong", "1 2 3", "x y", "\xff"],
    ids=["max", "empty", "unlimited", "zero", "no-period", "a-word", "three", "letters", "bytes"],
)
def test_without_a_quota_the_cpus_of_the_process_count(write: Make, text: str) -> None:
    assert _find(write("0::/\n", cpu_dot_max=text), 6) == Cpus(6, "affinity", 6.0)


def test_without_cgroups_the_cpus_of_the_process_count(tmp_path: Path) -> None:
    assert _find(tmp_path, 6) == Cpus(6, "affinity", 6.0)


def test_a_quota_above_the_cpu_set_does_not_count(write: Make) -> None:
    assert _find(write("0::/\n", cpu_dot_max="900000 100000"), 2) == Cpus(2, "affinity", 2.0)


def test_a_quota_below_one_cpu_gives_one_thread(write: Make) -> None:
    assert _find(write("0::/\n", cpu_dot_max="50000 100000"), 8) == Cpus(1, "quota", 0.5)


@given(micros=st.integers(1, 10**9), period=st.integers(1000, 10**6), cores=st.integers(1, 512))
def test_the_count_never_exceeds_quota_or_cores(
    tmp_path_factory: pytest.TempPathFactory, micros: int, period: int, cores: int
) -> None:
    root = tmp_path_factory.mktemp("cpus")
    (root / "cpu.max").write_text(f"{micros} {period}")
    found = cpus.find(root, root / "missing", cores)
    assert 1 <= found.count <= cores
    assert found.count <= max(1, micros / period)


def test_the_cpu_set_of_the_process_counts() -> None:
    code = "from avatar_runtime import cpus; print(cpus.find().count)"
    some = min(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(some), sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


def test_a_quota_bounds_the_threads_of_native_libraries() -> None:
    environment = {"MKL_NUM_THREADS": "1"}
    cpus.limit_libraries(Cpus(3, "quota", 3.2), environment)
    assert environment == {
        "OMP_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "1",  # what the template of the service sets stays
    }


def test_without_a_quota_native_libraries_decide() -> None:
    environment: dict[str, str] = {}
    cpus.limit_libraries(Cpus(8, "affinity", 8.0), environment)
    assert not environment


def test_the_text_names_the_number_and_the_reason() -> None:
    assert str(Cpus(3, "quota", 3.5)) == "3 (CPU quota of the cgroup: 3.5)"
    assert str(Cpus(8, "affinity", 8.0)) == "8 (CPUs of the process: 8)"
