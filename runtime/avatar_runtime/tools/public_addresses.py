"""Judges the addresses of a host that a stranger's URL names.

An IPv6 address may contain an IPv4 address to which a gateway translates it, so both are judged.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Blocks of IPv6 addresses that end in an IPv4 address: mapped, compatible (RFC 4291), NAT64
# (RFC 6052, RFC 8215).
_ENDS_IN_IPV4: Final = tuple(
    map(ipaddress.IPv6Network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48"))
)


def fault(host: str, addresses: Sequence[str], *, named: bool) -> str:
    """Return what is wrong with the addresses of a host; empty if all of them are allowed.

    `named` says that the list of hosts has its name, not only a pattern: then it may have private
    addresses. No name may have an address of this machine or of its link, where clouds serve
    credentials: only a list that has the address itself allows it.
    """
    parsed = [ipaddress.ip_address(each.partition("%")[0]) for each in addresses]
    if not named:
        private = next((each for each in parsed if not _is_public(each)), None)
        if private is not None:
            return f"its address {private} is private; allow the host by its name, not a pattern"
        return ""
    near = None if _is_literal(host) else next(filter(_is_near, parsed), None)
    if near is not None:
        return f"its address {near} is of this machine or its link; allow it by its address"
    return ""


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_near(address: Address) -> bool:
    """Return whether an address is of this machine, of its link, or of a group of machines."""
    return any(
        each.is_loopback or each.is_link_local or each.is_unspecified or each.is_multicast
        for each in _meanings(address)
    )


def _is_public(address: Address) -> bool:
    return all(each.is_global and not each.is_multicast for each in _meanings(address))


def _meanings(address: Address) -> list[Address]:
    """Return an address, and the IPv4 addresses to which a gateway may translate it."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.is_loopback or address.is_unspecified:
        return [address]
    if any(address in block for block in _ENDS_IN_IPV4):
        # The address itself is of a special block, and says nothing.
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    inner = [address.sixtofour, *(address.teredo or ())]
    return [address, *(each for each in inner if each is not None)]
