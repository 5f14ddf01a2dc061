from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core import demand as core
from avatar_gateway.core.demand import ARRIVAL_WINDOW_S, DemandLimiter, permitted
from avatar_gateway.core.tenants import PLATFORM, Principal, Tenant, TenantLimits

if TYPE_CHECKING:
    from collections.abc import Mapping


def _tenant(
    name: str = "acme", sessions: int | None = None, each: int | None = None
) -> Principal:  # fmt: skip
    limits = TenantLimits(sessions=sessions, sessions_per_service=each)
    return Principal(Tenant(name, limits))


@pytest.mark.parametrize(
    ("waiting", "live", "limits", "found"),
    [
        ({"a": 900}, {"a": 5}, TenantLimits(), {"a": 900}),
        ({"a": 900}, {"a": 1, "b": 1}, TenantLimits(sessions=3), {"a": 1}),
        ({"a": 900}, {"a": 1}, TenantLimits(sessions_per_service=3), {"a": 2}),
        ({"a": 9, "b": 9}, {"a": 3}, TenantLimits(9, 4), {"a": 1, "b": 4}),
        ({"a": 9, "b": 1, "c": 9}, {}, TenantLimits(sessions=6), {"a": 2, "b": 1, "c": 3}),
        ({"a": 9}, {"a": 7}, TenantLimits(sessions=3), {"a": 0}),
    ],
    ids=["no limits", "sessions", "each service", "both", "equal parts", "above the limit"],
)
def test_the_limits_of_a_tenant_decide_how_many_of_its_callers_count(
    waiting: Mapping[str, int],
    live: Mapping[str, int],
    limits: TenantLimits,
    found: Mapping[str, int],
) -> None:
    assert permitted(waiting, live, limits) == found


_COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50))
_LIMIT = st.none() | st.integers(0, 60)


@given(_COUNTS, _COUNTS, _LIMIT, _LIMIT)
def test_a_flood_never_counts_for_more_than_the_quota(
    waiting: dict[str, int], live: dict[str, int], sessions: int | None, each: int | None
) -> None:
    found = permitted(waiting, live, TenantLimits(sessions, each))
    assert found.keys() == waiting.keys()
    assert all(0 <= found[name] <= count for name, count in waiting.items())
    free = None if sessions is None else max(0, sessions - sum(live.values()))
    capped = {
        name: count if each is None else min(count, max(0, each - live.get(name, 0)))
        for name, count in waiting.items()
    }
    assert all(found[name] <= count for name, count in capped.items())
    # As many as possible count.
    total = sum(capped.values())
    assert sum(found.values()) == (total if free is None else min(total, free))


def test_the_callers_of_a_service_are_summed_over_its_tenants() -> None:
    published: dict[str, int] = {}
    demand = DemandLimiter(published.__setitem__)
    demand.set_waiting(_tenant("a", sessions=2), "s", 100)
    demand.set_waiting(_tenant("b", sessions=3), "s", 2)
    demand.set_waiting(PLATFORM, "s", 50)
    assert published == {"s": 54}
    with demand.session(_tenant("a", sessions=2), "other"):
        assert published == {"s": 53}
    assert published == {"s": 54}
    demand.set_waiting(_tenant("b", sessions=3), "s", 0)
    demand.set_waiting(PLATFORM, "s", 0)
    assert published == {"s": 2}


def test_callers_that_wait_for_the_quota_of_their_tenant_do_not_count() -> None:
    published: dict[str, int] = {}
    demand = DemandLimiter(published.__setitem__)
    tenant = _tenant(sessions=5)
    demand.set_waiting(tenant, "s", 3, by_quota=True)
    assert published.get("s", 0) == 0
    demand.set_waiting(tenant, "s", 3)
    assert published == {"s": 3}


def test_a_tenant_that_opens_and_closes_sessions_all_the_time_counts_up_to_its_quota() -> None:
    demand, tenant = DemandLimiter(lambda _service, _waiting: None), _tenant(sessions=6, each=4)
    counted = Counter[str]()
    for tenth in range(int(10 * ARRIVAL_WINDOW_S)):
        for service in ("s", "t"):
            counted[service] += demand.counts_arrival(tenant, service, tenth / 10)
    assert sum(counted.values()) <= 2 * 6  # the first burst, and what a window adds
    assert max(counted.values()) <= 2 * 4
    assert all(demand.counts_arrival(PLATFORM, "s", 0.0) for _ in range(1000))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["wait", "start", "end", "held"]),
            st.integers(0, 3),
            st.sampled_from("st"),
            st.integers(0, 30),
        ),
        max_size=40,
    )
)
def test_what_is_published_is_the_sum_of_what_each_tenant_may_use(
    steps: list[tuple[str, int, str, int]],
) -> None:
    published: defaultdict[str, int] = defaultdict(int)
    demand = DemandLimiter(published.__setitem__)
    tenants = [_tenant(f"t{n}", sessions=3 * n or None, each=2 * n or None) for n in range(4)]
    waiting = [dict[str, int]() for _ in tenants]
    live = [Counter[str]() for _ in tenants]
    held = [set[str]() for _ in tenants]
    stacks: list[list[tuple[str, ExitStack]]] = [[] for _ in tenants]
    for what, which, service, count in steps:
        principal = tenants[which]
        if what in ("wait", "held"):
            demand.set_waiting(principal, service, count, by_quota=what == "held")
            waiting[which][service] = count
            (held[which].add if what == "held" and count else held[which].discard)(service)
        elif what == "start":
            stack = ExitStack()
            stack.enter_context(demand.session(principal, service))
            stacks[which].append((service, stack))
            live[which][service] += 1
        elif stacks[which]:
            ended, stack = stacks[which].pop()
            stack.close()
            live[which][ended] -= 1
        expected = Counter[str]()
        for number, tenant in enumerate(tenants):
            assert tenant.tenant is not None
            able = {n: c for n, c in waiting[number].items() if n not in held[number]}
            expected.update(permitted(able, live[number], tenant.tenant.limits))
        assert {n: c for n, c in published.items() if c} == {n: c for n, c in expected.items() if c}


class Gateways:
    """Gateways that tell each other how many callers wait, as they do every 2 s."""

    def __init__(self, count: int, limit: int, live: Mapping[str, int]) -> None:
        self.tenant = _tenant(sessions=limit)
        self.published: list[Counter[str]] = [Counter() for _ in range(count)]
        self.heard: list[Mapping[str, Mapping[str, int]]] = [{} for _ in range(count)]
        self.demands = [
            DemandLimiter(
                self.published[number].__setitem__,
                lambda _: live,
                lambda tenant, number=number: self.heard[number].get(tenant, {}),  # type: ignore[misc]
            )
            for number in range(count)
        ]

    def exchange(self) -> None:
        texts = [core.encode(each.waiting()) for each in self.demands]
        self.heard = [
            core.decode(texts[:number] + texts[number + 1 :]) for number in range(len(texts))
        ]

    def wait(self, callers: Mapping[tuple[int, str], int]) -> None:
        """Publish callers by gateway and service; each service has the order of all gateways."""
        ahead: Counter[str] = Counter()
        for (number, service), count in callers.items():
            demand = self.demands[number]
            demand.set_waiting(self.tenant, service, count, ranked=0)
            able = demand.allowance(self.tenant, service)
            assert able is not None
            ranked = min(count, max(0, able - ahead[service]))
            demand.set_waiting(self.tenant, service, count, ranked=ranked)
            ahead[service] += count

    @property
    def total(self) -> int:
        return sum(sum(each.values()) for each in self.published)


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 2), st.sampled_from("abcd")), st.integers(1, 30), max_size=8
    ),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 10)),
    st.integers(0, 40),
)
def test_callers_of_several_services_at_several_gateways_count_for_the_quota_once(
    callers: dict[tuple[int, str], int], live: dict[str, int], limit: int
) -> None:
    gateways = Gateways(3, limit, live)
    for _ in range(2):  # before and after they have heard of each other
        gateways.wait(callers)
        gateways.exchange()
    gateways.wait(callers)
    free = max(0, limit - sum(live.values()))
    assert gateways.total == min(free, sum(callers.values()))


@pytest.mark.parametrize(
    "text",
    ["", "x", "{}", "[1]", '[["a","b",-1]]', '[["a","b"]]', '[["a",1,1]]', '[["a","b",1e999]]'],
)
def test_what_is_no_text_of_a_gateway_counts_nothing(text: str) -> None:
    right = core.encode({"acme": {"s": 2}})
    assert core.decode([text, right, right]) == {"acme": {"s": 4}}


def test_the_text_for_other_gateways_is_bounded() -> None:
    waiting = {f"t{number}": {"s": 1} for number in range(core.MAX_WAITING + 10)}
    assert len(core.decode([core.encode(waiting)])) == core.MAX_WAITING
