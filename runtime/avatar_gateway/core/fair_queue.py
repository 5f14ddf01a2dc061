"""The weighted fair order of callers that wait for slots of one service.

Tenants of a higher priority come first. Among tenants of one priority, slots are shared by weight;
the callers of one tenant are served in the order of their arrival.

The algorithm is WF2Q (J. Bennett and H. Zhang, "WF2Q: Worst-case Fair Weighted Fair Queueing",
INFOCOM 1996). An ideal server that could divide slots would serve all waiting tenants at the same
time, each at a rate in proportion to its weight. Virtual time measures the work of that server for
a weight of 1. The next slot of a tenant with the weight w starts when the ideal server has given it
all slots before, and finishes 1/w later. Among the tenants whose next slot has started by now, the
one that finishes first gets a slot. So no tenant is a whole slot behind or ahead of the ideal
server. A tenant that leaves after it was ahead stays in the ideal server until that has caught up;
coming back gains nothing. As in WF2Q+ ("Hierarchical Packet Fair Queueing Algorithms", SIGCOMM
1996), virtual time jumps if no slot has started, so that no slot stays unused.

How many callers may wait follows A. Choudhury and E. Hahne, "Dynamic Queue Length Thresholds for
Shared-Memory Packet Switches" (1998): each tenant at most as many as there are free places. One
tenant can take half of the queue, two a third each, and there is always room for the others.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_CALLERS: Final = 2000
"""Maximum number of callers in one queue; half of it for one tenant alone."""
_EPSILON: Final = 1e-6
"""Rounding errors of virtual time are smaller, and 1/w is a thousand times as large."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a tenant is entitled to; the platform is the tenant without a name."""

    tenant: str = ""
    weight: int = 1
    """From 1 to 1000."""
    priority: int = 0


@dataclass(slots=True)
class _Flow:
    """A tenant that has callers in the queue, or that the ideal server still serves."""

    share: Share
    start: float = 0.0
    """The virtual time at which its next slot starts."""
    callers: OrderedDict[str, None] = field(default_factory=OrderedDict)
    is_set_aside: bool = False
    takes_part: bool = False
    """Whether it gets slots: it has callers and is not set aside."""

    @property
    def finish(self) -> float:
        return self.start + 1 / self.share.weight


@dataclass(slots=True)
class _Level:
    """The tenants of one priority. All lists are sorted."""

    virtual_time: float = 0.0
    weights: int = 0
    """Of the tenants that the ideal server serves: those of all three lists."""
    started: list[tuple[float, str]] = field(default_factory=list)
    """Finish and name of the tenants whose next slot has started."""
    later: list[tuple[float, str]] = field(default_factory=list)
    """Start and name of the other tenants with callers."""
    ahead: list[tuple[float, str]] = field(default_factory=list)
    """Start and name of the tenants without callers that the ideal server still serves."""

    def has_started(self, flow: _Flow) -> bool:
        return flow.start <= self.virtual_time + _EPSILON


@dataclass(frozen=True, slots=True)
class FlowState:
    """A tenant of a queue that is kept elsewhere."""

    share: Share
    start: float
    takes_part: bool
    is_set_aside: bool
    callers: int


class FairQueue:
    """The waiting callers of one service. Every operation takes O(log n) comparisons."""

    def __init__(self) -> None:
        self._flows: dict[str, _Flow] = {}
        self._tenants: dict[str, str] = {}
        """The tenant of each caller."""
        self._levels: dict[int, _Level] = {}
        self._priorities: list[int] = []
        """Minus the priorities of the levels, sorted."""

    @classmethod
    def restore(cls, flows: Iterable[FlowState], virtual_times: Mapping[int, float]) -> FairQueue:
        """Return a queue with the state of another one; its callers are TENANT/RANK, from 0."""
        queue = cls()
        for priority, virtual_time in virtual_times.items():
            queue._levels[priority] = _Level(virtual_time)
            insort(queue._priorities, -priority)
        for state in sorted(flows, key=lambda state: not state.takes_part):
            tenant = state.share.tenant
            callers = [f"{tenant}/{rank}" for rank in range(state.callers)]
            queue._tenants |= dict.fromkeys(callers, tenant)
            flow = _Flow(state.share, state.start, OrderedDict.fromkeys(callers))
            flow.is_set_aside, flow.takes_part = state.is_set_aside, state.takes_part
            queue._flows[tenant] = flow
            queue._add(flow)
        return queue

    def __len__(self) -> int:
        return len(self._tenants)

    def __contains__(self, caller: str) -> bool:
        return caller in self._tenants

    @property
    def tenants(self) -> Mapping[str, int]:
        """Return the number of callers of each tenant that has some."""
        return {name: len(flow.callers) for name, flow in self._flows.items() if flow.callers}

    def callers_of(self, tenant: str) -> int:
        """Return the number of callers of a tenant."""
        flow = self._flows.get(tenant)
        return len(flow.callers) if flow else 0

    def accepts(self, tenant: str) -> bool:
        """Return whether one more caller of a tenant may wait."""
        return self.callers_of(tenant) < MAX_CALLERS - len(self)

    def has_before(self, share: Share) -> bool:
        """Return whether a new caller of a tenant would have to wait behind another caller.

        A tenant that is set aside keeps nobody else waiting.
        """
        flow = self._flows.get(share.tenant)
        if flow is not None and flow.callers:
            return True
        levels = (self._levels[-key] for key in self._priorities if -key >= share.priority)
        return any(level.started or level.later for level in levels)

    def join(self, caller: str, share: Share) -> None:
        """Add a caller behind those of its tenant, whose weight and priority are updated."""
        flow = self._flows.get(share.tenant)
        if flow is None:
            flow = self._flows[share.tenant] = _Flow(share)
        else:
            self._remove(flow)
            if flow.share.priority != share.priority:
                # Virtual times of two levels have nothing in common.
                flow.start, flow.takes_part = 0.0, False
                self._forget_if_empty(flow.share.priority)
            flow.share = share
        flow.callers[caller] = None
        self._tenants[caller] = share.tenant
        self._add(flow)

    def leave(self, caller: str) -> None:
        """Remove a caller that stopped waiting, if it waits."""
        if caller in self._tenants:
            flow = self._flows[self._tenants.pop(caller)]
            self._remove(flow)
            del flow.callers[caller]
            self._add(flow)

    def set_aside(self, tenant: str) -> None:
        """Skip a tenant that can use no slot now, for example because of its own quota."""
        self._mark(tenant, is_set_aside=True)

    def resume(self, tenant: str) -> None:
        """Let a tenant that was set aside take part again; it gets nothing for the time before."""
        self._mark(tenant, is_set_aside=False)

    def next(self) -> str | None:
        """Return the caller that gets the next slot; None if all tenants are set aside."""
        for key in self._priorities:
            level = self._levels[-key]
            if ranked := level.started or level.later:
                return next(iter(self._flows[ranked[0][1]].callers))
        return None

    def grant(self, caller: str) -> None:
        """Remove a caller that got a slot, and charge its tenant for it."""
        flow = self._flows[self._tenants.pop(caller)]
        self._advance(flow.share.priority)
        self._remove(flow)
        del flow.callers[caller]
        flow.start = flow.finish
        self._add(flow)

    def order(self) -> Iterator[str]:
        """Yield the callers in the order in which they would be served if none came or left.

        The callers of tenants that are set aside are left out.
        """
        copy = self._copy()
        while (caller := copy.next()) is not None:
            yield caller
            copy.grant(caller)

    def places(self) -> Mapping[str, int]:
        """Return the place of each caller, 1 for the next one.

        A caller whose tenant is set aside waits only behind its own tenant.
        """
        found = {caller: place for place, caller in enumerate(self.order(), start=1)}
        for flow in self._flows.values():
            if flow.is_set_aside:
                found |= {caller: place for place, caller in enumerate(flow.callers, start=1)}
        return found

    def _mark(self, tenant: str, *, is_set_aside: bool) -> None:
        flow = self._flows.get(tenant)
        if flow is not None and flow.is_set_aside is not is_set_aside:
            self._remove(flow)
            flow.is_set_aside = is_set_aside
            self._add(flow)

    def _add(self, flow: _Flow) -> None:
        """Put a tenant on the list of its level where it belongs, or forget it."""
        priority = flow.share.priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level()
            insort(self._priorities, -priority)
        name = flow.share.tenant
        if flow.callers and not flow.is_set_aside:
            if not flow.takes_part:
                flow.start = max(flow.start, level.virtual_time)
            flow.takes_part = True
            if level.has_started(flow):
                insort(level.started, (flow.finish, name))
            else:
                insort(level.later, (flow.start, name))
            level.weights += flow.share.weight
            return
        flow.takes_part = False
        if level.has_started(flow):
            self._catch_up(flow)
        else:
            insort(level.ahead, (flow.start, name))
            level.weights += flow.share.weight
        self._forget_if_empty(priority)

    def _remove(self, flow: _Flow) -> None:
        """Take a tenant off the list of its level."""
        level = self._levels.get(flow.share.priority)
        if level is None:
            return
        entries = (
            (level.started, (flow.finish, flow.share.tenant)),
            (level.later, (flow.start, flow.share.tenant)),
            (level.ahead, (flow.start, flow.share.tenant)),
        )
        for entries_of_list, entry in entries:
            at = bisect_left(entries_of_list, entry)
            if at < len(entries_of_list) and entries_of_list[at] == entry:
                del entries_of_list[at]
                level.weights -= flow.share.weight
                return

    def _catch_up(self, flow: _Flow) -> None:
        """Forget that a tenant was ahead, and the tenant if it has no callers."""
        if flow.callers:
            flow.start = 0.0
        else:
            del self._flows[flow.share.tenant]

    def _forget_if_empty(self, priority: int) -> None:
        """Forget a level on which nobody waits: whoever was ahead took nothing from anybody."""
        level = self._levels.get(priority)
        if level is not None and not level.started and not level.later:
            for _, name in level.ahead:
                self._catch_up(self._flows[name])
            del self._levels[priority]
            self._priorities.remove(-priority)

    def _advance(self, priority: int) -> None:
        """Let the ideal server give out one slot; tenants leave it when it has caught up."""
        level = self._levels.get(priority)
        if level is None:
            return
        if not level.started and level.later:
            level.virtual_time = level.later[0][0]
        work = 1.0
        while level.ahead:
            until, name = level.ahead[0]
            needed = max(0.0, (until - level.virtual_time) * level.weights)
            if needed > work:
                break
            work -= needed
            level.virtual_time = max(level.virtual_time, until)
            del level.ahead[0]
            level.weights -= self._flows[name].share.weight
            self._catch_up(self._flows[name])
        if level.weights:
            level.virtual_time += work / level.weights
        self._start(level)

    def _start(self, level: _Level) -> None:
        """Move the tenants whose next slot has started."""
        while level.later and level.has_started(flow := self._flows[level.later[0][1]]):
            del level.later[0]
            insort(level.started, (flow.finish, flow.share.tenant))

    def _copy(self) -> FairQueue:
        copy = FairQueue()
        copy._tenants = dict(self._tenants)
        copy._priorities = list(self._priorities)
        copy._levels = {
            key: _Level(
                level.virtual_time,
                level.weights,
                list(level.started),
                list(level.later),
                list(level.ahead),
            )
            for key, level in self._levels.items()
        }
        copy._flows = {
            name: replace(flow, callers=OrderedDict(flow.callers))
            for name, flow in self._flows.items()
        }
        return copy
