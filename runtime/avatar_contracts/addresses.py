"""Which network addresses count as one caller."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

_IPV6_PREFIX: Final = 64
"""One customer gets an IPv6 network of this size or a larger one."""


@lru_cache(maxsize=4096)
def address_key(text: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 network of an IPv6 one."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)
