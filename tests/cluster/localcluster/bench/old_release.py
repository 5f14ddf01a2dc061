"""Builds the control plane of an older Kubernetes release, and runs end-to-end tests on it.

The rules of the CRDs and of the admission policies are in CEL, whose functions and cost limits
depend on the release. The default tests are those of wrong and right specs, those of the policies,
and one of a service that becomes ready. It exits with 1 if a test fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Final

from localcluster import paths
from localcluster.bench import record
from localcluster.controlplane import build, components, progress, toolchain

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST: Final = "1.30.14"
"""The oldest release that the chart allows (`kubeVersion` in Chart.yaml)."""
PROGRAMS: Final = tuple(name for name in components.CONTROL_PLANE if name != components.ETCD)
TESTS: Final = (
    "tests/e2e/test_wrong_specs.py",
    "tests/e2e/test_guard_policies.py",
    "tests/e2e/test_service_lifecycle.py::test_example_becomes_ready_and_tells_its_story",
)


def go_mod(release: str, kubernetes_mod: str, go: str) -> str:
    """Return a module with the programs of a release as its tools.

    The modules that Kubernetes keeps in its own repository have version 0.0.0 there; their releases
    have the same numbers as Kubernetes, with major version 0.
    """
    staging = sorted(set(re.findall(r"^\s*(k8s\.io/\S+) v0\.0\.0$", kubernetes_mod, re.MULTILINE)))
    version = f"v0.{release.partition('.')[2]}"
    return "\n".join(
        (
            "module avatar.musetalk.io/tests/cluster/old-release",
            f"\ngo {go}\n",
            "tool (",
            *(f"\tk8s.io/kubernetes/cmd/{program}" for program in PROGRAMS),
            ")\n",
            f"require k8s.io/kubernetes v{release}\n",
            "replace (",
            *(f"\t{name} => {name} {version}" for name in staging),
            ")\n",
        )
    )


def programs(release: str, folder: Path) -> Path:
    """Build the programs of a release, in a module in `folder`; return where the binaries are."""
    screen = progress.Screen(sys.stderr)
    wanted = toolchain.wanted_version((paths.MODULE / "go.mod").read_text())
    go = asyncio.run(toolchain.find_go(wanted, build.cache_root(os.environ), screen.say))

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [go, *arguments],
            cwd=folder,
            env={**os.environ, "GOFLAGS": "-mod=mod"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    kubernetes = json.loads(run("mod", "download", "-json", f"k8s.io/kubernetes@v{release}"))
    kubernetes_mod = Path(kubernetes["GoMod"]).read_text()
    (folder / "go.mod").write_text(go_mod(release, kubernetes_mod, wanted))
    run("mod", "tidy")
    environ = {name: value for name, value in os.environ.items() if name != "KUBEBUILDER_ASSETS"}
    return asyncio.run(build.ensure(screen, environ, folder))[components.API_SERVER].parent


def test(assets: Path, tests: list[str]) -> Mapping[str, int]:
    """Run tests on the programs in a folder; return how many passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "e2e", f"--junit-xml={report}"]
        subprocess.run(
            [*command, *tests],
            cwd=paths.REPOSITORY,
            env={**os.environ, "KUBEBUILDER_ASSETS": str(assets)},
            check=False,
        )
        suites = ET.parse(report).getroot().iter("testsuite")
        counts = [
            {key: int(value) for key, value in suite.items() if value.isdigit()} for suite in suites
        ]

    def total(name: str) -> int:
        return sum(each.get(name, 0) for each in counts)

    failed, skipped = total("failures") + total("errors"), total("skipped")
    return {"passed": total("tests") - failed - skipped, "failed": failed, "skipped": skipped}


def main() -> int:
    """Run the benchmark and write its record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.old_release", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--release", default=OLDEST, help="a release of Kubernetes, like 1.30.14")
    parser.add_argument("tests", nargs="*", default=list(TESTS), help="files of end-to-end tests")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        assets = programs(options.release, Path(folder))
    built_s = time.monotonic() - started
    counts = test(assets, options.tests)
    results = {
        "kubernetes": options.release,
        "programs": PROGRAMS,
        "build_s": round(built_s, 1),
        "tests": options.tests,
        **counts,
    }
    record.write(options.out, 0, "none", results)
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
