"""The addresses of one cluster: the machine is a router, and each node has a network of pods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NUMBERS: Final = range(201, 250)
"""The second byte of a cluster's network 10.NUMBER.0.0/16."""
CLUSTER_DOMAIN: Final = "cluster.local"


@dataclass(frozen=True, slots=True)
class Topology:
    """The network 10.NUMBER.0.0/16 of one cluster."""

    number: int

    @property
    def bridge(self) -> str:
        """The bridge of this machine to which all nodes are attached."""
        return f"avk{self.number}"

    @property
    def network(self) -> str:
        return f"10.{self.number}.0.0/16"

    @property
    def host(self) -> str:
        """The address of this machine: the API server, the DNS server and proxies listen here."""
        return f"10.{self.number}.0.1"

    def node(self, index: int) -> NodeAddresses:
        """Return the addresses of the node with this index, 0 or more."""
        return NodeAddresses(self, index)


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """The addresses of one node and of its pods."""

    topology: Topology
    index: int

    @property
    def address(self) -> str:
        """InternalIP of the node."""
        return f"10.{self.topology.number}.0.{10 + self.index}"

    @property
    def pods(self) -> str:
        """The network of its pods."""
        return f"10.{self.topology.number}.{10 + self.index}.0/24"

    @property
    def link(self) -> str:
        """The end of the node's link on this machine; the other end is eth0 of the node."""
        return f"{self.topology.bridge}n{self.index}"
