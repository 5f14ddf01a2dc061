"""Keeps which PodDisruptionBudget protects which service; only correct ones count."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class PdbIndex:
    """The correct PodDisruptionBudgets of services, by their UIDs."""

    def __init__(self) -> None:
        self._services: dict[str, str] = {}  # UID of the service, by UID of the PDB
        self._pdbs: dict[str, set[str]] = {}  # UIDs of the PDBs, by UID of the service

    def protects(self, service: str) -> bool:
        """Return whether a service has a correct PDB."""
        return service in self._pdbs

    def put(self, pdb: str, service: str | None) -> str | None:
        """Record the service that a PDB protects, None if the PDB is wrong or was deleted.

        Returns the UID of the service that has no correct PDB any more, if there is one.
        """
        before = self._services.pop(pdb, None)
        if before is not None:
            self._pdbs[before].discard(pdb)
            if not self._pdbs[before]:
                del self._pdbs[before]
        if service is not None:
            self._services[pdb] = service
            self._pdbs.setdefault(service, set()).add(pdb)
        return before if before is not None and not self.protects(before) else None

    def replace(self, services: Mapping[str, str]) -> None:
        """Record all correct PDBs: the UIDs of the services by the UIDs of the PDBs."""
        self._services.clear()
        self._pdbs.clear()
        for pdb, service in services.items():
            self.put(pdb, service)

    def forget(self, service: str) -> None:
        """Discard what is recorded of a deleted service."""
        for pdb in self._pdbs.pop(service, ()):
            del self._services[pdb]
