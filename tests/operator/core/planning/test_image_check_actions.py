"""Which image proves itself, and which checks are created and deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.gpus.batch_size import NoBatch
from avatar_operator.core.gpus.inventory import ClassStock
from avatar_operator.core.gpus.pools import Pool
from avatar_operator.core.planning.actions import CreateImageCheck, DeleteImageCheck
from avatar_operator.core.planning.fleet import Fleet
from avatar_operator.core.planning.image_check import is_proven, next_check
from avatar_operator.core.resources.image_check import ImageCheck

if TYPE_CHECKING:
    from tests.operator.conftest import Make

CHECK = ImageCheck("c1", "u1", "7", "s1", pulled=False, trouble="", terminating=False)


def pool(gpu_class: str) -> Pool:
    return Pool(gpu_class, NoBatch("no"), ClassStock(gpu_class, 1, 1, 0, ()), None)


@pytest.mark.parametrize(
    ("group", "changes", "proven"),
    [
        ("current", {"image": "another"}, True),
        ("current", {"running": False}, False),
        ("outdated", {"image": "new"}, True),
        ("outdated", {"image": "old"}, False),
        ("outdated", {"image": "new", "running": False}, False),
        ("leaving", {"image": "new"}, True),
        ("leaving", {"image": "old"}, False),
        ("lost", {"image": "new"}, False),
        ("ended", {"image": "new"}, False),
    ],
)
def test_a_running_pod_proves_an_image(
    make: Make, group: str, changes: dict[str, object], proven: bool
) -> None:
    groups = dict.fromkeys(("current", "outdated", "lost", "leaving", "ended"), ())
    fleet = Fleet(**{**groups, group: (make.pod(**changes),)})  # type: ignore[arg-type]
    assert is_proven(make.service(), "c1", "new", fleet, ()) is proven


def test_a_check_that_pulled_proves_the_image_of_its_spec(make: Make) -> None:
    nothing = Fleet((), (), (), (), ())

    def proven(check: ImageCheck, *, allow: bool = False) -> bool:
        service = replace(make.service(), allow_unpulled=allow)
        return is_proven(service, "c1", "new", nothing, [check])

    assert proven(replace(CHECK, pulled=True))
    assert not proven(CHECK)
    assert proven(CHECK, allow=True)
    assert not proven(replace(CHECK, pulled=True, name="c2"))


def test_one_check_is_created_on_the_node_and_class_of_the_pod(make: Make) -> None:
    held = make.pod("old", node="n7", gpu_class="b")
    pools = (pool("a"), pool("b"))
    reason = "pod old makes room when the new image was pulled on node n7"
    assert next_check("c1", held, (), pools) == (CreateImageCheck("c1", pools[1], "n7", reason),)
    assert next_check("c1", None, (), pools) == ()
    assert next_check("c1", held, (CHECK,), pools) == ()


def test_checks_of_other_specs_are_deleted_once(make: Make) -> None:
    deleted = DeleteImageCheck("c2", "u2", "9", "it is not needed")
    other = replace(CHECK, name="c2", uid="u2", resource_version="9")
    held = make.pod("old", gpu_class="a")
    assert next_check("c1", held, (CHECK, other), (pool("a"),)) == (deleted,)
    assert next_check("", None, (other,), ()) == (deleted,)
    assert next_check("c1", held, (replace(other, terminating=True),), (pool("a"),)) == ()
