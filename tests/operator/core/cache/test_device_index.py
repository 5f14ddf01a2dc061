"""GPUs that DRA drivers publish, and the claims that have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.cache.device_index import DeviceIndex, count_taken, group_devices
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.core.resources.devices import (
    Device,
    DeviceClaim,
    ResourceSlice,
    parse_claim,
    parse_slice,
)
from avatar_operator.core.resources.pod import PodUse

if TYPE_CHECKING:
    from tests.operator.conftest import Make

DRIVER = "gpu.nvidia.com"
CLASSES = frozenset({"gpu.nvidia.com", "mig.nvidia.com"})
KEY = "gpu.nvidia.com/NVIDIA-L40S/46068MiB"
Body = dict[str, Any]


def device(name: str = "gpu-0", **changes: Any) -> Body:
    attributes = {"type": {"string": "gpu"}, "productName": {"string": "NVIDIA L40S"}}
    capacity = {"memory": {"value": "46068Mi"}}
    return {"name": name, "attributes": attributes, "capacity": capacity, **changes}


def slice_body(*devices: Body, **spec: Any) -> Body:
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1}
    known = {"driver": DRIVER, "nodeName": "n1", "pool": pool, "devices": [*devices]}
    metadata = {"name": "s", "uid": "slice", "resourceVersion": "5"}
    return {"metadata": metadata, "spec": {**known, **spec}}


def claim_body(*names: str, pod: str = "", uid: str = "claim", version: str = "5") -> Body:
    owners = [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod}] if pod else []
    results = [{"driver": DRIVER, "pool": "n1", "device": name, "request": "gpu"} for name in names]
    allocation = {"allocation": {"devices": {"results": results}}} if names else {}
    metadata = {"name": uid, "uid": uid, "resourceVersion": version, "ownerReferences": owners}
    return {"metadata": metadata, "spec": {}, "status": allocation}


def class_body(name: str = DRIVER) -> Body:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": "5"}, "spec": {}}


def test_qualified_names_are_read_like_short_ones() -> None:
    plain = device()
    qualified = device(
        attributes={f"{DRIVER}/{key}": value for key, value in plain["attributes"].items()},
        capacity={f"{DRIVER}/memory": plain["capacity"]["memory"]},
    )
    assert parse_slice(slice_body(plain)) == parse_slice(slice_body(qualified))


def test_slices_of_no_node_and_of_other_drivers_are_not_kept() -> None:
    assert parse_slice(slice_body(device(), nodeName="")) is None
    assert parse_slice(slice_body(device(), driver="dra.net")) is None


def test_hostile_values_make_a_device_that_is_not_used() -> None:
    for wrong in ({}, {"attributes": 7}, {"attributes": {"type": {"int": 3}}, "capacity": []}):
        found = parse_slice(slice_body({"name": "x", **wrong}))
        assert found is not None
        assert (
            found.devices[0].fault
            == "devices of type unknown are not supported, only gpu and mig are"
        )
    found = parse_slice(slice_body(device(capacity={"memory": {"value": "-5Gi"}})))
    assert found is not None
    assert found.devices[0].memory_mib is None


def test_only_the_latest_generation_of_a_pool_counts() -> None:
    old = parse_slice(slice_body(device(), device("gpu-1")))
    new = parse_slice(
        slice_body(device(), pool={"name": "n1", "generation": 2, "resourceSliceCount": 1})
    )
    assert old is not None
    assert new is not None
    for order in ([old, new], [new, old]):
        ((group,),) = group_devices(order, CLASSES).values()
        assert (group.count, group.fault) == (1, "")


def test_devices_of_administrators_are_not_in_use() -> None:
    body = claim_body("gpu-0")
    body["status"]["allocation"]["devices"]["results"][0]["adminAccess"] = True
    assert parse_claim(body) is None
    assert parse_claim(claim_body()) is None
    assert parse_claim({"metadata": {}, "status": {"allocation": "x"}}) is None


def test_the_store_gives_nodes_their_devices_and_counts_claims(make: Make) -> None:
    store = Store([])
    body = make.node_body("n1")
    body["metadata"]["resourceVersion"] = "5"
    body["status"]["allocatable"] = {}
    store.observe(Kind.NODES, body)
    impact = store.observe(Kind.SLICES, slice_body(device(), device("gpu-1")))
    assert impact.all_services
    assert store.observe(Kind.DEVICE_CLASSES, class_body()).all_services
    (node,) = store.nodes()
    (group,) = node.devices
    assert (group.key, group.count, group.fault) == (KEY, 2, "")
    assert store.gpu_uses(0.0) == ()
    store.observe(Kind.CLAIMS, claim_body("gpu-1"))
    assert store.gpu_uses(0.0) == (PodUse.of("n1", "", {KEY: 1}),)
    assert store.gpu_uses(0.0) is store.gpu_uses(0.0)
    assert store.observe(Kind.CLAIMS, claim_body(version="6")).freed_gpus  # deallocated
    assert store.gpu_uses(0.0) == ()
    store.observe(Kind.CLAIMS, claim_body("gpu-1", uid="other"))
    assert store.observe_deletion(Kind.CLAIMS, "other").freed_gpus
    assert store.observe_deletion(Kind.DEVICE_CLASSES, DRIVER).all_services
    assert "does not exist" in store.nodes()[0].devices[0].fault
    assert store.observe_deletion(Kind.SLICES, "slice").all_services
    assert store.nodes()[0].devices == ()


def test_a_pod_and_its_claim_are_counted_once(make: Make) -> None:
    store = Store([])
    store.observe(Kind.SLICES, slice_body(device()))
    pod = make.pod_body("p0", gpus=0)
    pod["metadata"] |= {"uid": "u1", "resourceVersion": "5", "ownerReferences": make.owners()}
    pod["metadata"]["creationTimestamp"] = "1970-01-01T00:00:00Z"
    pod["spec"] |= {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]}
    pod["spec"].pop("nodeName", None)
    store.observe(Kind.PODS, pod)
    assert [use.gpu_class for use in store.gpu_uses(1.0)] == ["rtx-4090"]
    store.observe(Kind.CLAIMS, claim_body("gpu-0", pod="u1"))
    assert store.gpu_uses(1.0) == (PodUse.of("n1", "", {KEY: 1}),)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 4)), max_size=6),
    st.sets(st.integers(0, 5)),
)
def test_never_more_devices_are_taken_than_there_are(
    seen: list[tuple[int, int, int]], taken: set[int]
) -> None:
    slices = [
        ResourceSlice(
            DRIVER,
            "n1",
            generation,
            count,
            "n1",
            tuple(Device(f"gpu-{n}", "gpu", "NVIDIA L40S", "", 46068, "") for n in range(devices)),
        )
        for generation, count, devices in seen
    ]
    groups = group_devices(slices, CLASSES).get("n1", ())
    uses = count_taken(slices, {(DRIVER, "n1", f"gpu-{n}") for n in taken})
    used = sum(count for use in uses for _, count in use.others)
    assert used <= sum(group.count for group in groups)


def test_an_old_version_of_a_claim_changes_nothing() -> None:
    index = DeviceIndex()
    claim = DeviceClaim("", ((DRIVER, "n1", "gpu-0"),))
    assert not index.put_claim("c", 7, claim)
    assert not index.put_claim("c", 6, DeviceClaim("", ()))
    assert index.claims.get("c") == claim
