"""Which addresses count as one caller."""

from __future__ import annotations

import pytest

from avatar_contracts.addresses import address_key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no address", "no address"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(text: str, key: str) -> None:
    assert address_key(text) == key
