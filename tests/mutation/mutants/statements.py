"""Operators of our own beside those of cosmic-ray, such as a call that is not made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import parso
from cosmic_ray.operators.operator import Example, Operator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class RemoveCall(Operator):  # type: ignore[misc]
    """Replaces a statement that is only a call, awaited or not, with `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "expr_stmt" or node.parent is None or node.parent.type != "simple_stmt":
            return
        call = node.children[-1] if node.type in {"await", "atom_expr"} else None
        if node.type == "atom_expr" and _is_call(call):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return _statement("pass", node)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        return (Example("f(x)\n", "pass\n"), Example("await a.f(x)\n", "pass\n"))


class ReturnNone(Operator):  # type: ignore[misc]
    """Returns `None` instead of a value, except of `False`: both are false in a condition."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type != "return_stmt":
            return
        if node.children[1].get_code().strip() not in {"None", "False"}:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return _statement("return None", node)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        return (Example("def f():\n    return 1\n", "def f():\n    return None\n"),)


class RemoveAssignment(Operator):  # type: ignore[misc]
    """Leaves out an assignment to an attribute or an item, as in `self.a = b` and `a[b] += c`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type != "expr_stmt" or node.children[0].type != "atom_expr":
            return
        if node.children[1].type != "annassign":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return _statement("pass", node)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        return (Example("a.b = 1\n", "pass\n"), Example("a[0] += 1\n", "pass\n"))


class CatchNothing(Operator):  # type: ignore[misc]
    """Lets every exception pass; that of cosmic-ray fails on a dotted name."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "except_clause":
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = parso.parse(" ()")
        return node

    @classmethod
    def examples(cls) -> Sequence[Example]:
        code = "try:\n    f()\nexcept {}:\n    pass\n"
        return tuple(
            Example(code.format(before), code.format(after))
            for before, after in (
                ("a.B", "()"),
                ("(A, b.C) as error", "() as error"),
            )
        )


def _is_call(trailer: Any) -> bool:
    return bool(trailer.type == "trailer" and trailer.children[0].value == "(")


def _statement(code: str, replaced: Any) -> Any:
    prefix: str = replaced.get_first_leaf().prefix
    return parso.parse(prefix + code)


OPERATORS: Final[dict[str, type[Operator]]] = {
    "own/RemoveCall": RemoveCall,
    "own/ReturnNone": ReturnNone,
    "own/RemoveAssignment": RemoveAssignment,
    "own/CatchNothing": CatchNothing,
}
