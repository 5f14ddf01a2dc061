from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avatar_operator.core.gpus import inventory, pools
from avatar_operator.core.manifests.image_check import image_check_pod
from avatar_operator.core.manifests.pod import PodSettings, runtime_pod
from avatar_operator.core.resources.image_check import parse_image_check
from avatar_operator.core.resources.pod import parse_runtime_pod, parse_use

if TYPE_CHECKING:
    from tests.operator.conftest import Make

SETTINGS = PodSettings("runtime:1", "Always", ("registry-key",))


def test_a_check_pulls_as_its_runtime_pod_does_without_a_gpu(make: Make) -> None:
    service = make.service(
        template={"serviceAccountName": "puller", "priorityClassName": "gold"},
        placement={"tolerations": [{"key": "k", "operator": "Exists"}]},
    )
    profiles = (make.profile(),)
    stock = inventory.count_free([make.node()], [], profiles, service.placement)
    (pool,) = pools.rank(service, profiles, stock, 0.9)
    check: Any = image_check_pod(service, "c", pool, "n1", SETTINGS)
    pod: Any = runtime_pod(service, "p", pool, SETTINGS, control_secret="c")
    spec, of_pod = check["spec"], pod["spec"]
    for field in (
        "securityContext",
        "tolerations",
        "imagePullSecrets",
        "serviceAccountName",
        "priorityClassName",
        "automountServiceAccountToken",
    ):
        assert spec[field] == of_pod[field], field
    (container,), (of_runtime,) = spec["containers"], of_pod["containers"]
    for field in ("image", "imagePullPolicy", "securityContext"):
        assert container[field] == of_runtime[field], field
    assert container["resources"]["limits"] == {"cpu": "10m", "memory": "64Mi"}
    assert spec["restartPolicy"] == "Never"
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    (field,) = term["matchFields"]
    assert (field["key"], field["values"]) == ("metadata.name", ["n1"])
    assert check["metadata"]["ownerReferences"] == pod["metadata"]["ownerReferences"]
    # Nothing takes it for a runtime pod.
    assert parse_image_check(check) is not None
    assert parse_runtime_pod(check) is None
    assert parse_use(check) is None
    assert "avatar.musetalk.io/service" not in check["metadata"]["labels"]
