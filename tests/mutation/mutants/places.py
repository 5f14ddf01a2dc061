"""Finds the places where a mutant can be made, and makes it; cosmic-ray has the operators."""

from __future__ import annotations

import ast
import difflib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import parso
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code

from mutants.statements import OPERATORS as OWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cosmic_ray.operators.operator import Operator

Position = tuple[int, int]

BINARY: Final = (
    "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Mod_FloorDiv",
    "Pow_Mul", "BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitAnd", "LShift_RShift", "RShift_LShift",
)  # fmt: skip
"""Only what gives another number: `+` instead of `|` fails with a TypeError in any test."""
COMPARISONS: Final = (
    "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE",
    "GtE_Gt", "GtE_Lt", "Is_IsNot", "IsNot_Is",
)  # fmt: skip
"""The neighbour and the opposite; `is` instead of `==` is the same for small numbers and enums."""
COSMIC_RAY: Final = (
    *(f"core/ReplaceBinaryOperator_{pair}" for pair in BINARY),
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in COMPARISONS),
    "core/ReplaceUnaryOperator_USub_UAdd",
    "core/ReplaceUnaryOperator_Delete_Not",
    "core/AddNot",
    "core/ReplaceTrueWithFalse",
    "core/ReplaceFalseWithTrue",
    "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd",
    "core/ReplaceBreakWithContinue",
    "core/ReplaceContinueWithBreak",
    "core/NumberReplacer",
    "core/RemoveDecorator",
    "core/ZeroIterationForLoop",
)
PARAMETERS: Final = frozenset({"parameters", "lambdef"})
EQUIVALENT_DECORATORS: Final = frozenset(
    {"abstractmethod", "cache", "final", "lru_cache", "overload", "override", "runtime_checkable"}
)
"""Decorators whose removal changes no result: they are for the type checker or for speed."""


@dataclass(frozen=True, slots=True, order=True)
class Mutation:
    """One change: the operator and which of its occurrences in the file."""

    operator: str
    occurrence: int


@dataclass(frozen=True, slots=True)
class Place:
    """A piece of a file that some operators can change."""

    file: str
    start: Position
    end: Position
    lines: tuple[int, ...]
    """The lines of the statement around it, or of the head of a compound statement."""
    mutations: tuple[Mutation, ...]


def operator(name: str) -> Operator:
    """Return an operator by its name."""
    return OWN[name]() if name in OWN else plugins.get_operator(name)()


def places(file: str, source: str) -> list[Place]:
    """Return the places of a file in order, without those where every mutant is equivalent."""
    skipped = Equivalent.of(source)
    found: dict[tuple[Position, Position], list[Mutation]] = defaultdict(list)
    nodes = list(ast_nodes(parso.parse(source)))
    for name in (*COSMIC_RAY, *OWN):
        made = operator(name)
        spans = ((node, span) for node in nodes for span in made.mutation_positions(node))
        for occurrence, (node, (start, end)) in enumerate(spans):
            # To cosmic-ray the `*` between parameters is a multiplication.
            parameter = node.parent is not None and node.parent.type in PARAMETERS
            if not parameter and not skipped.covers(start, end):
                found[start, end].append(Mutation(name, occurrence))
    statements = Statements.of(source)
    return [
        Place(file, start, end, statements.lines(start[0]), tuple(mutations))
        for (start, end), mutations in sorted(found.items())
    ]


def mutate(source: str, mutation: Mutation) -> str | None:
    """Return the changed source, or `None` if it is no Python or the same program."""
    changed: str | None = mutate_code(source, operator(mutation.operator), mutation.occurrence)
    try:
        if changed is None or ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source)):
            return None
    except SyntaxError:
        return None
    return changed


def diff(file: str, before: str, after: str) -> str:
    """Return the change as a unified diff with one line around it."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"a/{file}", f"b/{file}", lineterm="", n=1
    )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Equivalent:
    """The pieces of a file that do nothing when it runs, or nothing that a test could see."""

    spans: tuple[tuple[Position, Position], ...]

    @classmethod
    def of(cls, source: str) -> Equivalent:
        lines = source.splitlines()
        return cls(tuple(_span(node, lines) for node in equivalent_nodes(ast.parse(source))))

    def covers(self, start: Position, end: Position) -> bool:
        return any(first <= start and end <= last for first, last in self.spans)


def equivalent_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Return annotations, type aliases, blocks for the type checker, dataclass options and such."""
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(annotation=annotation, value=value):
                yield annotation
                if value is not None and "TypeAlias" in ast.unparse(annotation):
                    yield value
            case ast.arg(annotation=ast.expr() as annotation):
                yield annotation
            case ast.FunctionDef(returns=returns) | ast.AsyncFunctionDef(returns=returns):
                if returns is not None:
                    yield returns
                yield from _decorators(node)
            case ast.ClassDef():
                yield from _decorators(node)
                yield from node.bases
            case ast.Assign(value=ast.BinOp(op=ast.BitOr()) as value) if _is_type(value):
                yield value
            case ast.If(test=test) if ast.unparse(test) in {
                "TYPE_CHECKING", "__name__ == '__main__'",
            }:  # fmt: skip
                yield node
            case ast.Call(func=ast.Name(id="cast"), args=[first, *_]):
                yield first
            case ast.Call(func=ast.Name(id="zip"), keywords=[ast.keyword(arg="strict") as strict]):
                yield strict
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))) if name in {
                "_log",
                "log",
                "logger",
                "_logger",
            }:
                yield node
            case ast.Expr(value=ast.Constant()):
                yield node


def _decorators(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = ast.unparse(called).rpartition(".")[2]
        if name in EQUIVALENT_DECORATORS:
            yield decorator
        elif isinstance(decorator, ast.Call) and name == "dataclass":
            yield from (keyword.value for keyword in decorator.keywords)


def _is_type(node: ast.AST) -> bool:
    """Tell whether an expression is a union of types, like `Ready | Failed | None`."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is_type(left) and _is_type(right)
        case ast.Name(id=name):
            return name[:1].isupper() or name in {"bool", "bytes", "dict", "float", "int", "str"}
        case ast.Subscript(value=value):
            return _is_type(value)
        case ast.Attribute(attr=name):
            return name[:1].isupper()
        case ast.Constant(value=None | str()):
            return True
    return False


def _span(node: Any, lines: Sequence[str]) -> tuple[Position, Position]:
    """Return where a node starts and ends, by characters; the parser counts bytes."""

    def characters(line: int, offset: int) -> Position:
        return line, len(lines[line - 1].encode()[:offset].decode())

    first, last = (
        characters(node.lineno, node.col_offset),
        characters(node.end_lineno, node.end_col_offset),
    )
    if lines[first[0] - 1][: first[1]].strip() == "@":
        # A decorator of cosmic-ray goes from its `@` to the start of the next line.
        return (first[0], first[1] - 1), (last[0] + 1, 0)
    return first, last


@dataclass(frozen=True, slots=True)
class Statements:
    """Which lines belong to one statement."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, source: str) -> Statements:
        ranges = []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
                first = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
                for decorator in getattr(node, "decorator_list", ()):
                    first = min(first, decorator.lineno)
                body = getattr(node, "body", None)
                last = node.end_lineno if not isinstance(node, ast.match_case) else first
                if body:
                    last = max(first, body[0].lineno - 1)
                ranges.append((first, last or first))
        return cls(tuple(ranges))

    def lines(self, line: int) -> tuple[int, ...]:
        """Return the lines of the innermost statement at a line."""
        around = [
            (last - first, first, last) for first, last in self.ranges if first <= line <= last
        ]
        if not around:
            return (line,)
        _, first, last = min(around)
        return tuple(range(first, last + 1))
