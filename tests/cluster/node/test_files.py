"""The nodes files, and what they are refused for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import yaml

from localcluster import paths
from localcluster.node.errors import FileError
from localcluster.node.nodes_file import Gpu, Image, NodesFile, load, parse, quantity, repository

SIMULATED = paths.MODULE / "nodes-simulated.yaml"
NODE = {"name": "n"}


def test_the_default_nodes_are_the_classes_of_the_demo() -> None:
    nodes = {node.name: node for node in load(paths.DEFAULT_NODES).nodes}
    labels = nodes["rtx-4090-a"].labels()
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-GeForce-RTX-4090"
    assert labels["nvidia.com/gpu.memory"] == "24564"
    assert labels["nvidia.com/gpu.count"] == "2"
    assert labels["nvidia.com/gpu.replicas"] == "1"
    assert labels["nvidia.com/gpu.compute.major"] == "8"
    assert labels["nvidia.com/gpu.compute.minor"] == "9"
    products = [node.gpu.product for node in nodes.values() if node.gpu]
    assert sorted(products) == [
        "NVIDIA-A100-SXM4-80GB",
        "NVIDIA-GeForce-RTX-4090",
        "NVIDIA-GeForce-RTX-4090",
        "NVIDIA-H100-80GB-HBM3",
    ]
    plain = [node for node in nodes.values() if not node.gpu]
    assert [node.capacity().get("nvidia.com/gpu") for node in plain] == [None]
    assert plain[0].taints() == []


def test_the_simulated_nodes_differ_only_in_their_device() -> None:
    def without_device(path: Any) -> Any:
        document = yaml.safe_load(path.read_text())
        for node in document["nodes"]:
            (node.get("deviceEnv") or {}).pop("AVATAR_DEVICE", None)
        return document

    assert without_device(SIMULATED) == without_device(paths.DEFAULT_NODES)
    devices = {node.name: node.device_env.get("AVATAR_DEVICE") for node in load(SIMULATED).nodes}
    assert devices == {
        "rtx-4090-a": "simulated:rtx-4090",
        "rtx-4090-b": "simulated:rtx-4090",
        "a100-80gb-a": "simulated:a100-80gb",
        "h100-80gb-a": "simulated:h100-80gb",
        "cpu-a": None,
    }


def test_a_shared_gpu_has_the_labels_of_a_shared_gpu() -> None:
    gpu = Gpu("NVIDIA-L4", 23034, count=1, replicas=4)
    assert gpu.labels()["nvidia.com/gpu.product"] == "NVIDIA-L4-SHARED"
    assert gpu.labels()["nvidia.com/gpu.sharing-strategy"] == "time-slicing"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "nodes file is not a mapping"),
        ({}, "nodes is empty, must name at least one node"),
        ({"nodes": [NODE], "node": 1}, "nodes file has the unknown key 'node'"),
        ({"nodes": [{}]}, r"nodes\[0\].name is missing"),
        ({"nodes": [NODE, NODE]}, "nodes has a name twice: n, n"),
        ({"nodes": [{**NODE, "gpus": 1}]}, r"nodes\[0\] has the unknown key 'gpus'"),
        ({"nodes": [{**NODE, "gpu": {"product": "x"}}]}, r"nodes\[0\].gpu.memoryMiB is missing"),
        ({"nodes": [{**NODE, "deviceEnv": []}]}, r"nodes\[0\].deviceEnv is not a mapping"),
        ({"nodes": [NODE], "images": {"i": {"path": {}}}}, "images.i has the unknown key 'path'"),
    ],
)
def test_a_wrong_file_is_rejected_with_its_key(document: Any, sentence: str) -> None:
    with pytest.raises(FileError, match=sentence):
        parse(document)


def test_the_default_back_off_is_that_of_the_kubelet() -> None:
    assert parse({"nodes": [NODE]}).back_off.base_s == 10
    fast = parse({"nodes": [NODE], "crashBackOff": {"baseSeconds": 1}}).back_off
    assert (fast.base_s, fast.max_s) == (1, 300)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("avatar-musetalk/runtime", "avatar-musetalk/runtime"),
        ("avatar-musetalk/runtime:0.1.0", "avatar-musetalk/runtime"),
        ("localhost:5000/runtime", "localhost:5000/runtime"),
        ("localhost:5000/runtime:1@sha256:abc", "localhost:5000/runtime"),
    ],
)
def test_a_reference_without_tag_names_the_repository(reference: str, name: str) -> None:
    assert repository(reference) == name


def test_an_image_with_its_tag_precedes_the_name_without_it() -> None:
    general, special = Image(command=("a",)), Image(command=("b",))
    table = NodesFile((), {"i": general, "i:2": special})
    assert table.image("i:1") is general
    assert table.image("i:2") is special
    assert table.image("j") is None


@pytest.mark.parametrize(
    ("text", "value"), [("500m", "0.5"), ("2", "2"), ("1Gi", "1073741824"), ("3k", "3000")]
)
def test_quantities_are_parsed_to_numbers(text: str, value: str) -> None:
    assert quantity(text) == Decimal(value)


def test_a_text_that_is_not_a_quantity_is_rejected() -> None:
    with pytest.raises(FileError, match="'1Zi' is not a quantity"):
        quantity("1Zi")
