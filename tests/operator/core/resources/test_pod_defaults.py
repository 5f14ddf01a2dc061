from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.resources.placement import Toleration
from avatar_operator.core.resources.pod_defaults import (
    KNOWN,
    RESERVED_VARIABLES,
    PodDefaults,
    parse_pod_defaults,
)

if TYPE_CHECKING:
    from tests.operator.conftest import Make

ROOT = Path(__file__).parents[4]


def read(**given: object) -> PodDefaults:
    defaults, faults = parse_pod_defaults(json.dumps(given))
    assert faults == []
    return defaults


def test_no_defaults_change_no_service(make: Make) -> None:
    service = make.service(template={"env": [{"name": "A", "value": "1"}]})
    assert PodDefaults().merged_into(service) == service


def test_the_values_of_the_chart_change_no_hash(make: Make) -> None:
    """Otherwise an upgrade of the chart replaces the pods of all services."""
    values = yaml.safe_load((ROOT / "charts/avatar-operator/values.yaml").read_text())
    service = make.service()
    merged = read(**values["runtime"]["defaults"]).merged_into(service)
    assert hash_spec(merged, "i") == hash_spec(service, "i")


def test_a_service_has_the_defaults_that_it_does_not_set(make: Make) -> None:
    defaults = read(
        labels={"team": "a"},
        annotations={"note": "b"},
        env=[{"name": "HTTP_PROXY", "value": "http://proxy"}],
        resources={"requests": {"cpu": 2, "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
        priorityClassName="avatars",
        runtimeClassName="nvidia",
        serviceAccountName="runtime",
        nodeSelector={"pool": "gpu"},
        tolerations=[{"key": "dedicated", "operator": "Exists"}],
    )
    service = make.service()
    merged = defaults.merged_into(service)
    template = merged.template
    assert (template.labels, template.annotations) == ({"team": "a"}, {"note": "b"})
    assert template.env == ({"name": "HTTP_PROXY", "value": "http://proxy"},)
    assert template.resources == {
        "requests": {"cpu": 2, "memory": "8Gi"},
        "limits": {"memory": "8Gi"},
    }
    assert template.priority_class == "avatars"
    assert (template.runtime_class, template.service_account) == ("nvidia", "runtime")
    assert merged.placement.node_selector == (("pool", "gpu"),)
    assert merged.placement.tolerations == (Toleration("dedicated", "Exists"),)
    assert hash_spec(merged, "i") != hash_spec(service, "i")


def test_each_field_of_a_service_takes_precedence(make: Make) -> None:
    defaults = read(
        labels={"team": "a", "tier": "default"},
        env=[{"name": "A", "value": "default"}, {"name": "B", "value": "default"}],
        resources={"requests": {"cpu": "2", "memory": "8Gi"}},
        priorityClassName="default",
        nodeSelector={"pool": "default", "disk": "ssd"},
        tolerations=[{"key": "own", "operator": "Exists"}],
    )
    merged = defaults.merged_into(
        make.service(
            template={
                "labels": {"tier": "own"},
                "env": [{"name": "A", "value": "own"}],
                "resources": {"limits": {"memory": "6Gi"}},
                "priorityClassName": "own",
            },
            placement={
                "nodeSelector": {"pool": "own"},
                "tolerations": [{"key": "own", "operator": "Exists"}],
            },
        )
    )
    assert merged.template.labels == {"team": "a", "tier": "own"}
    assert merged.template.env == (
        {"name": "B", "value": "default"},
        {"name": "A", "value": "own"},
    )
    # The default request of 8 GiB would exceed the limit of the service.
    assert merged.template.resources == {"requests": {"cpu": "2"}, "limits": {"memory": "6Gi"}}
    assert merged.template.priority_class == "own"
    assert merged.placement.node_selector == (("disk", "ssd"), ("pool", "own"))
    assert len(merged.placement.tolerations) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"volumes": []}, "runtime.defaults.volumes must be removed; the fields are annotations"),
        ({"priorityClassName": 3}, "runtime.defaults.priorityClassName is 3, must be the name of"),
        ({"resources": {"requests": {"cpu": "two"}}}, 'requests.cpu is "two", must be a quantity'),
        (
            {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}},
            'runtime.defaults.resources.requests.memory is "2Gi", must be no more than the limit',
        ),
        ({"resources": {"limits": {"nvidia.com/gpu": 2}}}, "nvidia.com/gpu must not be set"),
        ({"tolerations": [{"effect": "Never"}]}, 'tolerations[0].effect is "Never", must be one'),
        ({"env": [{"value": "1"}]}, "env[0].name is missing, must be the name of the variable"),
        ({"env": [{"name": "A", "value": 1}]}, "env[0].value is 1, must be a string"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "env[1]: env must not contain duplicate names"),
        ({"env": [{"name": "AVATAR_FPS"}]}, "env[0].name must not be AVATAR_FPS"),
        ({"env": [{"name": "A", "value": "", "valueFrom": {}}]}, "must not be set together"),
        ({"labels": {"avatar.musetalk.io/service": "x"}}, "must not be set, because the operator"),
        ({"podSecurityContext": True}, "podSecurityContext is true, must be an object"),
        ({"nodeSelector": {"pool": 1}}, "nodeSelector.pool is 1, must be a string"),
    ],
)
def test_a_wrong_default_names_its_field_value_and_limit(given: Any, message: str) -> None:
    _, faults = parse_pod_defaults(json.dumps(given))
    (fault,) = map(str, faults)
    assert fault.startswith("runtime.defaults.")
    assert message in fault


@pytest.mark.parametrize("text", ["{", "[" * 10_000])
def test_what_is_not_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|nested too deeply"):
        parse_pod_defaults(text)


def test_the_crd_reserves_the_same_variables() -> None:
    crd = (ROOT / "crds" / "avatarservices.yaml").read_text()
    rule = crd.split("!(self.name in [", 1)[1].split("]", 1)[0]
    assert {each.strip(" '\n") for each in rule.split(",")} == RESERVED_VARIABLES


def test_the_schema_of_the_chart_has_the_same_fields() -> None:
    schema = json.loads((ROOT / "charts/avatar-operator/values.schema.json").read_text())
    fields = schema["properties"]["runtime"]["properties"]["defaults"]["properties"]
    assert sorted(fields) == list(KNOWN)
