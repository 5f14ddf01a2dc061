"""Init containers, volumes and mounts of services that download their models."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.gpus import inventory, pools
from avatar_operator.core.manifests import model_cache
from avatar_operator.core.manifests.model_cache import ModelCache
from avatar_operator.core.manifests.pod import PodSettings, hash_spec, runtime_pod
from avatar_operator.core.resources.sources import DownloadSource, ImageVolumeSource
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from tests.operator.conftest import Make

SHA = "a" * 64
URL = "https://models.example.com/musetalk/$(HOME)/manifest.json"
SOURCE = {"download": {"url": URL, "sha256": SHA, "credentialsSecretRef": {"name": "key"}}}
SETTINGS = PodSettings(
    "runtime:1", "IfNotPresent", cache=ModelCache(max_mib=100, hosts=("models.example.com",))
)


def render(make: Make, settings: PodSettings = SETTINGS, **spec: Any) -> Any:
    service = make.service(**spec)
    profiles = (make.profile(),)
    stock = inventory.count_free([make.node()], [], profiles, service.placement)
    (pool,) = pools.rank(service, profiles, stock, 0.9)
    return runtime_pod(service, "concierge-0", pool, settings, "control")["spec"]


def test_an_init_container_downloads_and_the_runtime_reads_only_its_model(make: Make) -> None:
    spec = render(make, model={"source": SOURCE}, template={"image": "tenant:1"})
    (init,) = spec["initContainers"]
    assert init["name"] == "cache-models"
    assert init["image"] == "runtime:1"  # the image of a tenant may not write to the cache
    assert init["command"] == ["avatar-runtime", "cache-model"]
    args = dict(zip(init["args"][::2], init["args"][1::2], strict=True))
    assert args == {
        "--url": URL.replace("$", "$$"),
        "--sha256": SHA,
        "--max-bytes": str(100 << 20),
        "--cache": "/model-cache",
        "--allow-host": "models.example.com",
    }
    variable = next(each for each in init["env"] if "valueFrom" in each)
    assert variable["name"] == "AVATAR_DOWNLOAD_AUTHORIZATION"
    key = {"name": "key", "key": "authorization"}
    assert variable["valueFrom"] == {"secretKeyRef": key}
    (runtime,) = spec["containers"]
    assert runtime["args"][:2] == ["--model", "/models"]
    mounts = [each for each in runtime["volumeMounts"] if each["name"] == "model-cache"]
    mount = {"mountPath": "/models", "subPath": f"{SHA}/files", "readOnly": True}
    assert mounts == [{"name": "model-cache", **mount}]
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert volumes["model-cache"]["emptyDir"] == {"sizeLimit": "164Mi"}
    assert "models" not in volumes
    assert init["securityContext"] == runtime["securityContext"]


@pytest.mark.parametrize(
    "volume",
    [
        {"hostPath": {"path": "/var/lib/models", "type": "Directory"}},
        {"persistentVolumeClaim": {"claimName": "models"}},
        {"emptyDir": {"sizeLimit": "9Gi"}},
    ],
    ids=["hostPath", "claim", "emptyDir"],
)
def test_the_chart_chooses_the_volume(make: Make, volume: dict[str, Any]) -> None:
    settings = replace(SETTINGS, cache=ModelCache(volume=volume))
    spec = render(make, settings, model={"source": SOURCE})
    found = next(each for each in spec["volumes"] if each["name"] == "model-cache")
    assert found == {"name": "model-cache", **volume}
    assert model_cache.parse_volume(json.dumps(volume)) == volume


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"nfs": {}}', '{"emptyDir": 3}', '{"emptyDir": {}, "hostPath": {}}'],
)
def test_another_volume_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        model_cache.parse_volume(text)


def test_avatars_are_downloaded_as_well(make: Make) -> None:
    spec = render(make, model={"source": SOURCE}, avatarSource=SOURCE)
    assert [each["name"] for each in spec["initContainers"]] == ["cache-models", "cache-avatars"]
    mounts = {each["mountPath"] for each in spec["containers"][0]["volumeMounts"]}
    assert {"/models", "/avatars"} <= mounts
    assert sum(each["name"] == "model-cache" for each in spec["volumes"]) == 1


def test_a_service_that_downloads_nothing_has_no_init_container(make: Make) -> None:
    spec = render(make)
    assert "initContainers" not in spec
    assert all(each["name"] != "model-cache" for each in spec["volumes"])


def test_an_image_volume_is_mounted(make: Make) -> None:
    source = {"imageVolume": {"reference": "registry/musetalk:v15", "path": "/m"}}
    service = make.service(model={"source": source})
    assert service.model.source == ImageVolumeSource("registry/musetalk:v15", "m", "IfNotPresent")
    spec = render(make, model={"source": source})
    (runtime,) = spec["containers"]
    assert runtime["args"][:2] == ["--model", "/models/m"]
    volume = next(each for each in spec["volumes"] if each["name"] == "models")
    assert volume["image"] == {"reference": "registry/musetalk:v15", "pullPolicy": "IfNotPresent"}


def test_another_manifest_replaces_the_pods(make: Make) -> None:
    other = {"download": {"url": URL, "sha256": "b" * 64}}
    services = [make.service(model={"source": each}) for each in (SOURCE, other)]
    assert len({hash_spec(each, "runtime:1") for each in services}) == 2


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"url": "ftp://host/manifest"}, r"spec\.model\.source\.download\.url is"),
        ({"url": "https://user@host/manifest"}, "without a user, a query and a fragment"),
        ({"url": "https://host/manifest?x=1"}, "without a user, a query and a fragment"),
        ({"url": "https://host/"}, "URL of a manifest"),
        ({"sha256": "A" * 64}, "64 lowercase hexadecimal digits"),
        ({"sha256": "a" * 63}, "64 lowercase hexadecimal digits"),
        ({"credentialsSecretRef": {"name": "Not a name"}}, "credentialsSecretRef"),
    ],
)
def test_a_wrong_download_is_refused_in_words(
    make: Make, change: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InvalidResource, match=fault):
        make.service(model={"source": {"download": {**SOURCE["download"], **change}}})


def test_two_kinds_of_sources_are_refused(make: Make) -> None:
    with pytest.raises(InvalidResource, match=r"exactly one of .*imageVolume and download must be"):
        make.service(model={"source": {**SOURCE, "hostPath": {"path": "/m"}}})


def test_only_services_that_download_may_connect_to_servers(make: Make) -> None:
    rule = {"ports": [{"protocol": "TCP", "port": 443}]}
    rules = {"egress": [{"to": []}], "ingress": [], "policyTypes": ["Egress"]}
    cache = ModelCache(egress=(rule, {"to": []}))
    plain = model_cache.rules_with_egress(rules, make.service(), cache)
    assert plain == rules
    downloads = make.service(model={"source": SOURCE})
    assert isinstance(downloads.model.source, DownloadSource)
    found = model_cache.rules_with_egress(rules, downloads, cache)
    assert found["egress"] == [{"to": []}, rule]
