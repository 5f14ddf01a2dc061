from __future__ import annotations

import pytest

from avatar_operator.core.resources import annotations as rules
from avatar_operator.core.resources.service import parse_service

GROUP = "avatar.musetalk.io"


@pytest.mark.parametrize("name", rules.SERVICE_FLAGS)
def test_a_flag_is_true_or_false(name: str) -> None:
    assert rules.flag({name: "true"}, name)
    assert not rules.flag({name: "false"}, name)
    assert rules.faults({name: "true"}) == rules.faults({name: "false"}) == ()
    assert not rules.flag({name: "yes"}, name)
    said = f'annotation {name} is "yes" and is ignored, must be true or false'
    assert rules.faults({name: "yes"}) == (said,)


def test_an_annotation_that_does_not_exist_is_told() -> None:
    known = "paused, freeze, pause-scale-in, allow-unpulled-image"
    said = f"annotation {GROUP}/pause is ignored: an AvatarService has only {known}"
    assert rules.faults({f"{GROUP}/pause": "true", "mine/pause": "yes"}) == (said,)


def test_an_annotation_of_a_pod_is_told_to_belong_there() -> None:
    (said,) = rules.faults({f"{GROUP}/drain": "true"})
    assert said.endswith(" (drain is an annotation of a pod)")


def test_faults_are_parsed_with_the_service() -> None:
    metadata = {"name": "a", "namespace": "b", "annotations": {f"{GROUP}/paused": "True"}}
    service = parse_service({"metadata": metadata, "spec": {}})
    assert not service.paused
    assert service.annotation_faults == rules.faults({f"{GROUP}/paused": "True"}) != ()


def test_all_faults_are_told_in_the_order_of_their_names() -> None:
    long = "x" * 100
    given = {f"{GROUP}/paused": long, f"{GROUP}/freeze": "1", f"{GROUP}/drain": "true"}
    assert rules.faults(given) == (
        f"annotation {GROUP}/drain is ignored: an AvatarService has only paused, freeze, "
        "pause-scale-in, allow-unpulled-image (drain is an annotation of a pod)",
        f'annotation {GROUP}/freeze is "1" and is ignored, must be true or false',
        f'annotation {GROUP}/paused is "{"x" * 59} and is ignored, must be true or false',
    )


def test_a_missing_flag_is_false() -> None:
    assert not rules.flag({}, rules.SERVICE_FLAGS[0])
