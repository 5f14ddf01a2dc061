"""Which connections a port keeps."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.connections import (
    ConnectionTable,
    Limits,
    Refusal,
    client_of,
    limits_for,
)

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("total", "per_address", "descriptors", "expected"),
    [
        (4096, 0, 1024, Limits(384, 192)),
        (4096, 0, 20_000, Limits(4096, 2048)),
        (4096, 100, 20_000, Limits(4096, 100)),
        (100, 5000, 20_000, Limits(100, 100)),
        (1, 0, 20_000, Limits(1, 1)),
    ],
)
def test_the_limits_fit_into_the_descriptors(
    total: int, per_address: int, descriptors: int, expected: Limits
) -> None:
    assert limits_for(total, per_address, descriptors) == expected


@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.lists(
        st.tuples(
            st.sampled_from(["open", "busy", "wait", "end", "client"]),
            st.integers(0, 30),
            st.sampled_from(["a", "b", "c", None]),
        ),
        max_size=80,
    ),
)
def test_only_the_oldest_waiting_connection_is_displaced(
    total: int, per_address: int, steps: list[tuple[str, int, str | None]]
) -> None:
    table: ConnectionTable[int] = ConnectionTable(Limits(total, per_address))
    # The model: connections with their address and whether they wait, the longest wait first.
    kept: dict[int, tuple[str | None, bool]] = {}
    for number, (step, pick, address) in enumerate(steps):
        chosen = list(kept)[pick % len(kept)] if kept else None
        counts = Counter(each for each, _ in kept.values())
        full = address is not None and counts[address] >= per_address
        if step == "open":
            admission = table.admit(number, address)
            waiting = [one for one, (_, waits) in kept.items() if waits]
            of_address = [one for one in waiting if kept[one][0] == address]
            room = not full and len(kept) < total
            victims = [] if room else of_address if full else waiting
            assert admission.displaced == (victims[0] if victims else None)
            if room or victims:
                assert admission.refusal is None
                kept.pop(admission.displaced or 0, None) if victims else None
                kept[number] = (address, True)
            else:
                assert admission.refusal is (Refusal.ADDRESS if full else Refusal.TOTAL)
        elif chosen is None:
            continue
        elif step == "end":
            table.remove(chosen)
            del kept[chosen]
        elif step == "client" and address is not None:
            old, waits = kept[chosen]
            of_address = [one for one, each in kept.items() if each == (address, True)]
            victims = of_address[:1] if full and old != address else []
            allowed = old == address or not full or bool(victims)
            admission = table.set_address(chosen, address)
            assert admission.refusal is (None if allowed else Refusal.ADDRESS)
            assert admission.displaced == (victims[0] if victims else None)
            for victim in victims:
                del kept[victim]
            if allowed and old != address:
                kept.pop(chosen)
                kept[chosen] = (address, waits)
        else:
            table.set_waiting(chosen, is_waiting=step == "wait")
            old, _ = kept.pop(chosen)
            kept[chosen] = (old, step == "wait")
        assert len(table) == len(kept) <= total
        if step != "client":
            assert all(
                count <= per_address
                for each, count in Counter(each for each, _ in kept.values()).items()
                if each is not None
            )


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7, 10.0.0.1"], "192.0.2.7"),
        (["6.6.6.6", "192.0.2.7, fd00::1"], "192.0.2.7"),
        (["192.0.2.7, unknown"], None),
        (["10.0.0.1"], None),
        ([], None),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(
    lines: list[str], client: str | None
) -> None:
    assert client_of(lines, PROXIES) == client
