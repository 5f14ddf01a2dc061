"""The paths of the repository's files and of the state folder of one cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

MODULE: Final = Path(__file__).resolve().parent.parent
"""The Go module, and the folder for `PYTHONPATH`."""
REPOSITORY: Final = MODULE.parent.parent
DEFAULT_STATE: Final = REPOSITORY / "build" / "cluster"
DEFAULT_NODES: Final = MODULE / "nodes.yaml"
"""GPU nodes whose runtimes compute on the CPU."""
SIMULATED_NODES: Final = MODULE / "nodes-simulated.yaml"
"""The same nodes with simulated GPUs, for dozens of live sessions on a small machine."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one cluster, all below its state folder."""

    root: Path
    """An absolute path, because processes with other working directories read it."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Return the layout of a state folder."""
        return cls(folder.absolute())

    @property
    def state_file(self) -> Path:
        return self.root / "state.json"

    @property
    def marker(self) -> Path:
        """The marker file: localcluster owns the folder and may delete its content."""
        return self.root / ".localcluster"

    @property
    def socket(self) -> Path:
        return self.root / "supervisor.sock"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def etcd_data(self) -> Path:
        return self.root / "etcd"

    @property
    def home(self) -> Path:
        """Caches and settings of kubectl and helm, separate from those of the user."""
        return self.root / "home"

    @property
    def nodes(self) -> Path:
        return self.root / "nodes"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def audit_log(self) -> Path:
        return self.logs / "audit.jsonl"

    @property
    def audit_policy(self) -> Path:
        return self.root / "audit-policy.yaml"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    def kubeconfig(self, user: str) -> Path:
        return self.root / "kubeconfigs" / user

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log; empty if the file does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
