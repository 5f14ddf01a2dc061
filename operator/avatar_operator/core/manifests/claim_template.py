"""Renders the ResourceClaimTemplate by which pods get GPUs of a class from a DRA driver."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from avatar_operator import names
from avatar_operator.core.manifests.objects import owned_metadata, service_labels

if TYPE_CHECKING:
    from avatar_operator.core.gpus.inventory import ClassStock
    from avatar_operator.core.resources.devices import DeviceGroup
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.service import Service

_HASH_LENGTH = 6


def template_name(service: str, stock: ClassStock) -> str:
    """Return the name of the template: another one for other GPUs, because it is immutable."""
    digest = hashlib.sha256(f"{stock.resource} {selector(stock)}".encode()).hexdigest()
    return f"{service}-{stock.gpu_class}-{digest[:_HASH_LENGTH]}"


def claim_template(service: Service, stock: ClassStock, name: str) -> Body:
    """Render the template; the defaults of the API are written out, so that they compare equal."""
    request = {
        "name": names.CLAIM,
        "exactly": {
            "deviceClassName": stock.resource,
            "allocationMode": "ExactCount",
            "count": 1,
            "selectors": [{"cel": {"expression": selector(stock)}}],
        },
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": owned_metadata(service, name, service_labels(service)),
        "spec": {
            "metadata": {"labels": service_labels(service)},
            "spec": {"devices": {"requests": [request]}},
        },
    }


def pod_claim(template: str) -> Body:
    """Render the claim of a pod."""
    return {"name": names.CLAIM, "resourceClaimTemplateName": template}


def selector(stock: ClassStock) -> str:
    """Return the CEL expression that selects exactly the GPUs that were counted.

    A range of memory would also select larger GPUs with the name of a smaller one, which belong to
    another class.
    """
    return " || ".join(_matches(group) for group in stock.devices)


def _matches(group: DeviceGroup) -> str:
    driver = json.dumps(group.driver)
    attributes, capacity = f"device.attributes[{driver}]", f"device.capacity[{driver}]"
    terms = [f"{attributes}.productName == {json.dumps(group.product)}"]
    if group.profile:
        terms.append(f"{attributes}.profile == {json.dumps(group.profile)}")
    if group.memory_mib is not None:
        low, high = (f'quantity("{mib}Mi")' for mib in (group.memory_mib, group.memory_mib + 1))
        terms.append(f"{capacity}.memory.compareTo({low}) >= 0")
        terms.append(f"{capacity}.memory.compareTo({high}) < 0")
    return f"({' && '.join(terms)})"
