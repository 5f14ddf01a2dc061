"""Describes the nodes that a service cannot use, those that matter to it first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_operator.core import text

if TYPE_CHECKING:
    from collections.abc import Collection

    from avatar_operator.core.gpus.inventory import Inventory

_NAMED_CAUSES: Final = 3
_NAMED_NODES: Final = 3  # of one cause


def describe(inventory: Inventory, wanted: Collection[str]) -> list[str]:
    """Return one phrase for each cause, and one for the nodes that are not named.

    Nodes of the `wanted` GPU classes come first, then nodes of an unknown class: the class may be a
    wanted one. Nodes of another class would not help and come last.
    """
    causes: dict[tuple[int, str], list[str]] = {}
    for node, why in inventory.left_out:
        gpu_class = inventory.classes_left_out.get(node)
        rank = 1 if gpu_class is None else 0 if gpu_class in wanted else 2
        causes.setdefault((rank, why), []).append(node)
    ordered = sorted(causes.items(), key=lambda item: (item[0][0], item[1][0]))
    found = [_phrase(nodes, why) for (_, why), nodes in ordered[:_NAMED_CAUSES]]
    rest = sum(len(nodes) for _, nodes in ordered[_NAMED_CAUSES:])
    return [*found, f"{text.count(rest, 'more node')} excluded"] if rest else found


def _phrase(nodes: list[str], why: str) -> str:
    """Return the nodes of one cause, with the first ones by name."""
    if len(nodes) == 1:
        return f"node {nodes[0]} excluded: {why}"
    more = len(nodes) - _NAMED_NODES
    names = [*nodes[:_NAMED_NODES], f"{more} more"] if more > 0 else nodes
    return f"nodes {text.join(names)} excluded: {why}"
