"""What this machine must have and permit for a node with a kubelet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from localcluster.kubelet import cgroups, pause

PROGRAMS: Final = {
    "containerd": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "conntrack": "conntrack",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "unshare": "util-linux",
}
"""Programs, and the Debian packages that have them."""


def missing() -> str:
    """Return why no such node can run here, or an empty text."""
    if os.geteuid() != 0:
        return "a node with a kubelet needs root"
    packages = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if not Path("/usr/lib/cni/ptp").exists():
        packages.add("containernetworking-plugins")
    if not pause.PROGRAM.exists():
        packages.add("catatonit")
    if packages:
        return f"requirements/install-debian installs {', '.join(sorted(packages))}"
    return _refused()


def _refused() -> str:
    command = ("unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true")
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"namespaces are not permitted: {tried.stderr.strip()}"
    name = f"avatar-try-{os.getpid()}"
    try:
        cgroups.create(name)
        cgroups.remove(name)
    except OSError as error:
        return f"cgroups are not permitted: {error}"
    return ""
