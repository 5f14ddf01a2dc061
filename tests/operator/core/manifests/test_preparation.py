"""The Job of an avatar: its pod, its arguments, and its NetworkPolicy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.gpus.inventory import ClassStock
from avatar_operator.core.manifests import preparation
from avatar_operator.core.manifests.pod import PodSettings
from avatar_operator.core.manifests.preparation import PreparationSettings

if TYPE_CHECKING:
    from tests.operator.conftest import Make

STOCK = ClassStock("rtx-4090", 24_000, 2, 2, ((("nvidia.com/gpu.product", "4090"),),))
SETTINGS = PreparationSettings(hosts=("a.example",), max_mib=10, egress=[{"ports": []}])
PODS = PodSettings("runtime:1", "IfNotPresent", ("registry",))
URL = {"url": {"url": "https://a.example/face.JPG?x=$(HOME)", "sha256": "0" * 64}}


def rendered(make: Make, stock: ClassStock | None = STOCK, **spec: Any) -> Any:
    return preparation.job(make.avatar(**spec), "anna-prepare-0", 1, stock, PODS, SETTINGS)


def pod(job: Any) -> Any:
    return job["spec"]["template"]["spec"]


def arguments(job: Any) -> list[str]:
    (container,) = pod(job)["containers"]
    found: list[str] = container["args"]
    return found


def test_a_job_has_one_pod_that_the_restricted_standard_admits(make: Make) -> None:
    job = rendered(make)
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (0, 3600)
    assert job["metadata"]["ownerReferences"][0]["kind"] == "Avatar"
    spec = pod(job)
    assert (spec["restartPolicy"], spec["automountServiceAccountToken"]) == ("Never", False)
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    marks = job["spec"]["template"]["metadata"]["labels"]
    assert marks["avatar.musetalk.io/avatar"] == "anna"
    assert "avatar.musetalk.io/service" not in marks  # the gateway looks for it


def test_a_job_on_a_gpu_is_pinned_to_its_class(make: Make) -> None:
    job = rendered(make)
    spec = pod(job)
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "affinity" in spec
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "--device" not in arguments(job)


def test_a_job_on_cpus_uses_no_gpu(make: Make) -> None:
    job = rendered(make, None)
    spec = pod(job)
    assert "nvidia.com/gpu" not in spec["containers"][0]["resources"]["limits"]
    assert "affinity" not in spec
    assert spec["tolerations"] == []
    found = arguments(job)
    assert found[found.index("--device") + 1] == "cpu"


@pytest.mark.parametrize(
    ("source", "volume", "path"),
    [
        (
            {"persistentVolumeClaim": {"claimName": "films", "path": "a/b.mp4"}},
            {"persistentVolumeClaim": {"claimName": "films", "readOnly": True}},
            "/source/a/b.mp4",
        ),
        (
            {"configMap": {"name": "faces", "key": "a.jpg"}},
            {
                "configMap": {
                    "name": "faces",
                    "items": [{"key": "a.jpg", "path": "a.jpg"}],
                    "optional": True,
                }
            },
            "/source/a.jpg",
        ),
        (
            {"secret": {"name": "faces", "key": "a.jpg"}},
            {
                "secret": {
                    "secretName": "faces",
                    "items": [{"key": "a.jpg", "path": "a.jpg"}],
                    "optional": True,
                }
            },
            "/source/a.jpg",
        ),
        (URL, {"emptyDir": {"sizeLimit": "26Mi"}}, "/source/fetched.jpg"),
        (
            {"image": {"reference": "faces:1", "path": "anna"}},
            {"image": {"reference": "faces:1", "pullPolicy": "IfNotPresent"}},
            "/source/anna",
        ),
    ],
    ids=["claim", "config-map", "secret", "url", "image"],
)
def test_each_source_is_mounted(make: Make, source: Any, volume: Any, path: str) -> None:
    job = rendered(make, source=source)
    volumes = {each.pop("name"): each for each in pod(job)["volumes"]}
    assert volumes["source"] == volume
    found = arguments(job)
    assert found[found.index("--source") + 1] == path


def test_texts_of_strangers_are_neither_options_nor_variables(make: Make) -> None:
    job = rendered(make, consent="$(HOME) and $$", disclosure="AI $(POD)")
    assert "--consent=$$(HOME) and $$$$" in arguments(job)
    assert "--disclosure=AI $$(POD)" in arguments(job)
    fetch = pod(rendered(make, source=URL))["initContainers"][0]["args"]
    assert "https://a.example/face.JPG?x=$$(HOME)" in fetch
    assert fetch[fetch.index("--max-bytes") + 1] == str(10 * 1024 * 1024)
    assert fetch[fetch.index("--allow-host") + 1] == "a.example"


def test_only_the_volume_of_the_avatars_is_writable(make: Make) -> None:
    models = {"source": {"persistentVolumeClaim": {"claimName": "models", "path": "v15"}}}
    job = rendered(
        make, model=models, storage={"persistentVolumeClaim": {"claimName": "f", "path": "team"}}
    )
    mounts = {
        each["name"]: each.get("readOnly", False)
        for each in pod(job)["containers"][0]["volumeMounts"]
    }
    assert mounts == {"tmp": False, "source": True, "models": True, "avatars": False}
    volumes = {each["name"]: each for each in pod(job)["volumes"]}
    assert volumes["avatars"]["persistentVolumeClaim"] == {"claimName": "f"}
    found = arguments(job)
    assert found[found.index("--out") + 1] == "/avatars/team/anna"
    assert found[found.index("--model") + 1] == "/models/v15"


def test_detectors_are_files_of_the_model(make: Make) -> None:
    detectors = {"dwpose": "dw.onnx", "faceParser": "bisenet.pth"}
    found = arguments(rendered(make, preparation={"detectors": detectors, "pixels": "png"}))
    assert found[found.index("--dwpose") + 1] == "/opt/avatar/models/demo/dw.onnx"
    assert found[found.index("--pixels") + 1] == "png"


def test_only_a_download_may_open_connections(make: Make) -> None:
    def policy(**spec: Any) -> Any:
        avatar = make.avatar(**spec)
        return preparation.network_policy(avatar, "anna-prepare", [{"ports": []}])["spec"]

    assert policy()["egress"] == policy()["ingress"] == []
    assert policy(source=URL)["egress"] == [{"ports": []}]
    assert policy()["policyTypes"] == ["Ingress", "Egress"]
