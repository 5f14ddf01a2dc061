from __future__ import annotations

import inspect
import pickle

import pytest

from avatar_contracts import fields
from avatar_contracts.environment import Fault
from avatar_operator import errors


def test_the_tree_in_the_docstring_is_complete() -> None:
    assert errors.__doc__ is not None
    classes = [
        found
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, errors.AvatarOperatorError)
    ]
    for found in classes:
        (line,) = [row for row in errors.__doc__.splitlines() if found.__name__ in row.split()]
        depth = len(line) - len(line.lstrip("│├└─ "))
        parents = [c for c in found.__mro__[1:] if issubclass(c, errors.AvatarOperatorError)]
        assert depth == 4 * len(parents)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (errors.SettingsError(Fault("A", "b", "c")), "A is 'b', must be c"),
        (errors.InputError("--nodes", "f", "holds no Node"), "--nodes f: holds no Node"),
        (
            errors.InvalidResource("K", "n", [fields.Fault("a", "1", "2")]),
            "K n: a is 1, must be 2",
        ),
        (errors.Refused("GET /x", 403, "no"), "GET /x: 403 no"),
        (errors.TemporaryError("GET /x", 429, "busy", 2.0), "GET /x: 429 busy"),
        (errors.BrokenStream("the stream ended"), "the stream ended"),
        (
            errors.NotRemoved(("Avatar a/b",), 2, 60.0),
            "1 objects and 2 pods were not gone after 60 s: Avatar a/b; sessions that are live go "
            "on, run the uninstall again when they have ended",
        ),
        (errors.RuntimeUnreachable("p", "x"), "pod p did not respond on its admin port: x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_its_message_and_can_be_pickled(
    error: errors.AvatarOperatorError, sentence: str
) -> None:
    assert str(error) == sentence
    assert str(pickle.loads(pickle.dumps(error))) == sentence
