"""Which connections a port keeps: limits in total and per address.

A connection *waits* before its first request has arrived completely, between two requests, and
while a caller that continues a session has not said so. At a limit, a new connection takes the
place of the one that has waited longest. Other connections are never closed for a new one.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from avatar_contracts.addresses import address_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_Connection = TypeVar("_Connection")

_DESCRIPTORS_PER_SESSION: Final = 2
"""The caller and the pod."""


class Refusal(Enum):
    """Why a new connection is refused."""

    TOTAL = "limit"
    ADDRESS = "address_limit"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a port keeps."""

    total: int
    per_address: int


def limits_for(total: int, per_address: int, descriptors: int) -> Limits:
    """Return the limits that the process can keep.

    A quarter of the descriptors is left for the watches, the state streams and the probes.

    Args:
        total: the setting.
        per_address: the setting; 0 stands for half of the total.
        descriptors: how many descriptors the process may open.
    """
    total = max(1, min(total, (descriptors - descriptors // 4) // _DESCRIPTORS_PER_SESSION))
    return Limits(total, min(total, per_address) if per_address else max(1, total // 2))


@dataclass(frozen=True, slots=True)
class Admission(Generic[_Connection]):
    """What happens to a new connection."""

    refusal: Refusal | None = None
    displaced: _Connection | None = None
    """The connection that must be closed to make room."""


@dataclass(slots=True)
class _Address(Generic[_Connection]):
    total: int = 0
    waiting: OrderedDict[_Connection, None] = field(default_factory=OrderedDict)


class ConnectionTable(Generic[_Connection]):
    """The connections of one port."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._address_of: dict[_Connection, str | None] = {}
        self._addresses: dict[str, _Address[_Connection]] = {}
        self._waiting: OrderedDict[_Connection, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._address_of)

    def admit(self, connection: _Connection, address: str | None) -> Admission[_Connection]:
        """Add a new connection, which waits, unless it is refused.

        The address None is that of a trusted proxy, which has no limit of its own.
        """
        admission: Admission[_Connection] = Admission()
        if self._is_full(address):
            assert address is not None
            oldest = next(iter(self._addresses[address].waiting), None)
            admission = Admission(Refusal.ADDRESS if oldest is None else None, oldest)
        elif len(self) >= self._limits.total:
            oldest = next(iter(self._waiting), None)
            admission = Admission(Refusal.TOTAL if oldest is None else None, oldest)
        if admission.displaced is not None:
            self.remove(admission.displaced)
        if admission.refusal is None:
            self._address_of[connection] = None
            self._assign(connection, address)
            self.set_waiting(connection, is_waiting=True)
        return admission

    def remove(self, connection: _Connection) -> None:
        """Remove a connection; one that is not in the table is ignored."""
        if connection in self._address_of:
            self.set_waiting(connection, is_waiting=False)
            self._assign(connection, None)
            del self._address_of[connection]

    def set_waiting(self, connection: _Connection, *, is_waiting: bool) -> None:
        """Record that a connection waits from now on, or that a request of it is handled."""
        if connection not in self._address_of:
            return
        address = self._address_of[connection]
        groups = [self._waiting] + ([self._addresses[address].waiting] if address else [])
        for group in groups:
            group.pop(connection, None)
            if is_waiting:
                group[connection] = None

    def set_address(self, connection: _Connection, address: str) -> Admission[_Connection]:
        """Count the connection of a trusted proxy for the client of its request.

        At the limit of the client, it takes the place of the one of its connections that has waited
        longest. A refused connection stays in the table, and counts for whom it counted before.
        """
        admission: Admission[_Connection] = Admission()
        if connection not in self._address_of or self._address_of[connection] == address:
            return admission
        if self._is_full(address):
            oldest = next(iter(self._addresses[address].waiting), None)
            if oldest is None:
                return Admission(Refusal.ADDRESS)
            admission = Admission(displaced=oldest)
            self.remove(oldest)
        is_waiting = connection in self._waiting
        self.set_waiting(connection, is_waiting=False)
        self._assign(connection, address)
        if is_waiting:
            self.set_waiting(connection, is_waiting=True)
        return admission

    def _is_full(self, address: str | None) -> bool:
        found = self._addresses.get(address) if address is not None else None
        return found is not None and found.total >= self._limits.per_address

    def _assign(self, connection: _Connection, address: str | None) -> None:
        previous = self._address_of[connection]
        if previous is not None:
            counted = self._addresses[previous]
            counted.total -= 1
            if not counted.total:
                del self._addresses[previous]
        if address is not None:
            self._addresses.setdefault(address, _Address()).total += 1
        self._address_of[connection] = address


def is_trusted(text: str, proxies: Sequence[IPNetwork]) -> bool:
    """Return whether an address is that of a trusted proxy."""
    if not proxies:
        return False
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address.version == proxy.version and address in proxy for proxy in proxies)


def client_of(forwarded: Sequence[str], proxies: Sequence[IPNetwork]) -> str | None:
    """Return the client in the `X-Forwarded-For` lines that a trusted proxy sent.

    It is the last address that is not a trusted proxy. What is to the left of it comes from the
    client itself and is ignored. The result is None without such an address, or if the header is
    malformed there.
    """
    for text in reversed([part.strip() for line in forwarded for part in line.split(",")]):
        if is_trusted(text, proxies):
            continue
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return None
        return address_key(text)
    return None
