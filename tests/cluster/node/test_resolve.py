"""The environment and the words of a container."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.node.errors import ConfigError
from localcluster.node.resolve import (
    Place,
    Source,
    bind_to,
    environment,
    expand,
    field_value,
    resource_value,
    sources,
    wants_gpu,
    words,
)

PLACE = Place("127.0.10.7", "127.0.10.1", {"cpu": "16", "memory": "64Gi"})
POD: dict[str, Any] = {
    "metadata": {
        "name": "talk",
        "namespace": "acme",
        "uid": "u-1",
        "labels": {"avatar.musetalk.io/service": "concierge"},
        "annotations": {"note": "hello"},
    },
    "spec": {"nodeName": "rtx-4090-a", "serviceAccountName": "speaker"},
}
NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1)


def resolve(container: dict[str, Any], **data: dict[str, str] | None) -> dict[str, str]:
    known = {Source(*key.split("_", 1)): value for key, value in data.items()}
    return environment(container, POD, PLACE, known, {"PATH": "/bin"})


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A)", "one"),
        ("x$(A)y$(B)z", "xoneytwoz"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$one"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
    ],
)
def test_references_expand_as_in_kubernetes(text: str, result: str) -> None:
    assert expand(text, {"A": "one", "B": "two"}) == result


@given(NAMES, st.text(), st.text(st.characters(exclude_characters="$")))
def test_an_inserted_value_is_not_expanded_again(name: str, value: str, around: str) -> None:
    assert expand(f"{around}$({name}){around}", {name: value}) == f"{around}{value}{around}"


@given(st.text())
def test_a_doubled_dollar_keeps_the_text(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "one"}) == text


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("0.0.0.0:8080", "127.0.10.7:8080"),
        ("--listen=0.0.0.0:8080", "--listen=127.0.10.7:8080"),
        ("http://0.0.0.0/x", "http://127.0.10.7/x"),
        ("0.0.0.0", "127.0.10.7"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.0:80", "10.0.0.0:80"),
        ("0.0.0.0.1", "0.0.0.0.1"),
        ("0.0.0.01", "0.0.0.01"),
    ],
)
def test_the_wildcard_address_becomes_the_address_of_the_pod(text: str, result: str) -> None:
    assert bind_to(text, PLACE.pod_ip) == result


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "talk"),
        ("metadata.namespace", "acme"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['avatar.musetalk.io/service']", "concierge"),
        ("metadata.annotations['note']", "hello"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "rtx-4090-a"),
        ("spec.serviceAccountName", "speaker"),
        ("status.podIP", "127.0.10.7"),
        ("status.hostIP", "127.0.10.1"),
    ],
)
def test_fields_of_the_pod_are_resolved(path: str, value: str) -> None:
    assert field_value(path, POD, PLACE) == value


def test_an_unknown_field_is_rejected_with_its_name() -> None:
    with pytest.raises(ConfigError, match=r"unsupported fieldPath: status\.phase"):
        field_value("status.phase", POD, PLACE)


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        ({"resource": "limits.memory"}, str(2**30)),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "1024"),
        ({"resource": "requests.cpu", "divisor": "1"}, "1"),
        ({"resource": "requests.cpu", "divisor": "1m"}, "500"),
        ({"resource": "limits.cpu"}, "16"),
    ],
    ids=["bytes", "divided", "rounded up", "milli", "the node's when not set"],
)
def test_resources_are_rounded_up_to_whole_divisors(ref: dict[str, str], value: str) -> None:
    container = {"resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "500m"}}}
    assert resource_value(ref, container, PLACE) == value


def test_later_variables_take_precedence_and_can_reference_earlier_ones() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "C_"}],
        "env": [
            {"name": "PORT", "value": "8080"},
            {"name": "URL", "value": "http://$(C_HOST):$(PORT)/$(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "C_OVER", "value": "mine"},
            {"name": "EMPTY"},
        ],
    }
    env = resolve(container, ConfigMap_c={"HOST": "here", "OVER": "theirs"})
    assert env == {
        "PATH": "/bin",
        "C_HOST": "here",
        "C_OVER": "mine",
        "PORT": "8080",
        "URL": "http://here:8080/$(LATER)",
        "LATER": "x",
        "EMPTY": "",
    }


def one(origin: dict[str, Any]) -> dict[str, Any]:
    return {"env": [{"name": "V", "valueFrom": origin}]}


def test_a_key_of_a_secret_becomes_a_value() -> None:
    container = one({"secretKeyRef": {"name": "s", "key": "token"}})
    assert sources(container) == {Source("Secret", "s")}
    assert resolve(container, Secret_s={"token": "x"})["V"] == "x"


@pytest.mark.parametrize(
    ("origin", "data", "sentence"),
    [
        ({"secretKeyRef": {"name": "s", "key": "k"}}, {"Secret_s": None}, 'secret "s" not found'),
        (
            {"secretKeyRef": {"name": "s", "key": "k"}},
            {"Secret_s": {"other": ""}},
            "couldn't find key k in Secret acme/s",
        ),
        (
            {"configMapKeyRef": {"name": "c", "key": "k"}},
            {"ConfigMap_c": None},
            'configmap "c" not found',
        ),
    ],
    ids=["no secret", "no key", "no configmap"],
)
def test_a_missing_required_value_is_named(
    origin: dict[str, Any], data: dict[str, dict[str, str] | None], sentence: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(one(origin), **data)
    assert str(raised.value) == sentence


@pytest.mark.parametrize("values", [None, {}], ids=["no object", "no key"])
def test_a_missing_optional_value_sets_no_variable(values: dict[str, str] | None) -> None:
    container = one({"secretKeyRef": {"name": "s", "key": "k", "optional": True}})
    assert "V" not in resolve(container, Secret_s=values)


def test_arguments_follow_the_command_or_the_entry_point() -> None:
    env = {"N": "4"}
    stated = {"command": ["serve"], "args": ["--batch", "$(N)"]}
    assert words(stated, ("entry",), env) == ("serve", "--batch", "4")
    assert words({"args": ["x"]}, ("entry",), env) == ("entry", "x")
    with pytest.raises(ConfigError, match="no command"):
        words({}, (), env)


@pytest.mark.parametrize(
    ("resources", "wants"),
    [
        ({}, False),
        ({"limits": {"cpu": "1"}}, False),
        ({"limits": {"nvidia.com/gpu": "1"}}, True),
        ({"limits": {"nvidia.com/gpu": 0}}, False),
        ({"requests": {"nvidia.com/gpu": "2"}}, True),
        ({"claims": [{"name": "gpu"}]}, True),
        ({"claims": []}, False),
    ],
)
def test_only_a_container_with_a_gpu_request_gets_the_device(
    resources: dict[str, Any], wants: bool
) -> None:
    assert wants_gpu({"resources": resources}) is wants
