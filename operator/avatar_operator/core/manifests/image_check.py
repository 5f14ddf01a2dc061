"""Renders the pod that pulls the image of a service on a node, without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_operator import names
from avatar_operator.core.manifests.objects import owned_metadata
from avatar_operator.core.manifests.pod import PodSettings, runtime_pod

if TYPE_CHECKING:
    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.service import Service

_RESOURCES: Final = {"cpu": "10m", "memory": "64Mi"}
_POD_FIELDS: Final = (
    "automountServiceAccountToken",
    "enableServiceLinks",
    "securityContext",
    "tolerations",
    "imagePullSecrets",
    "serviceAccountName",
    "priorityClassName",
)
_CONTAINER_FIELDS: Final = ("image", "imagePullPolicy", "securityContext")


def image_check_pod(
    service: Service, name: str, pool: Pool, node: str, settings: PodSettings
) -> Body:
    """Render the image check of a runtime pod: what its image needs to be pulled, and no more.

    It has no label of a runtime pod, so that neither the gateway nor a plan counts it as one. Its
    program may be missing in the image: the image was pulled before the program starts.
    """
    spec = Fields(runtime_pod(service, name, pool, settings, control_secret="")["spec"], "spec", [])
    (container,) = spec.children("containers")
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    required = {"nodeSelectorTerms": [term]}
    marks: dict[str, str] = {
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_IMAGE_CHECK: service.key.name,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": owned_metadata(service, name, marks),
        "spec": {
            **{field: spec.raw(field) for field in _POD_FIELDS if spec.has(field)},
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}
            },
            "containers": [
                {
                    "name": names.IMAGE_CHECK_CONTAINER,
                    **{field: container.raw(field) for field in _CONTAINER_FIELDS},
                    "command": ["true"],
                    "resources": {"requests": _RESOURCES, "limits": _RESOURCES},
                }
            ],
        },
    }
