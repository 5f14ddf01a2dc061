"""Whether a service waits for the avatars that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.planning.avatars.needs import KnownAvatar, judge
from avatar_operator.core.resources.sources import ClaimSource

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenarios

FACES = {"persistentVolumeClaim": {"claimName": "faces"}}
HERE = ClaimSource("faces", "")


def known(name: str, *, available: bool, storage: ClaimSource = HERE) -> KnownAvatar:
    return KnownAvatar(name, storage, available, "" if available else "Job x starts")


def test_a_service_without_avatar_resources_needs_none(make: Make) -> None:
    service = make.service(avatars=["anna"], avatarSource=FACES)
    assert judge(service, {}) is None


@pytest.mark.parametrize(
    ("anna", "ben", "waiting", "blocks"),
    [(True, True, 0, False), (True, False, 1, False), (False, False, 2, True)],
)
def test_a_service_waits_while_none_of_its_avatars_exists(
    make: Make, anna: bool, ben: bool, waiting: int, blocks: bool
) -> None:
    service = make.service(avatars=["anna", "ben"], avatarSource=FACES)
    found = judge(
        service, {"anna": known("anna", available=anna), "ben": known("ben", available=ben)}
    )
    assert found is not None
    assert (len(found.waiting), found.blocks) == (waiting, blocks)


def test_an_avatar_without_a_resource_may_exist(make: Make) -> None:
    service = make.service(avatars=["anna", "ben"], avatarSource=FACES)
    found = judge(service, {"anna": known("anna", available=False)})
    assert found is not None
    assert (found.waiting, found.blocks) == (("anna: Job x starts",), False)


def test_an_avatar_of_another_volume_blocks_nothing(make: Make) -> None:
    service = make.service(avatars=["anna"], avatarSource=FACES)
    other = known("anna", available=False, storage=ClaimSource("faces", "other"))
    found = judge(service, {"anna": other})
    assert found is not None
    assert (found.waiting, found.elsewhere, found.blocks) == ((), ("anna",), False)


def test_no_pod_is_planned_while_a_service_waits(scenarios: Scenarios) -> None:
    scenario = scenarios(avatars=["anna"], avatarSource=FACES)
    scenario.needs = judge(scenario.service, {"anna": known("anna", available=False)})
    found = scenario.plan()
    assert (found.waits_for_avatars, found.new_pods, found.missing) == (True, (), 0)
    scenario.needs = judge(scenario.service, {"anna": known("anna", available=True)})
    assert len(scenario.plan().new_pods) == 1


def test_pods_that_exist_are_not_held_back(scenarios: Scenarios) -> None:
    scenario = scenarios(avatars=["anna"], avatarSource=FACES, replicas=2)
    scenario.add("p0")
    scenario.prove()
    scenario.needs = judge(scenario.service, {"anna": known("anna", available=False)})
    found = scenario.plan()
    assert (found.waits_for_avatars, len(found.new_pods)) == (False, 1)
