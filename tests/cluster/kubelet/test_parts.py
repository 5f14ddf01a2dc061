"""The parts of a node with a kubelet that are values: addresses, documents, names, the image."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import tarfile
import tomllib
from typing import TYPE_CHECKING

import pytest

from localcluster import paths
from localcluster.kubelet import cluster, dns, documents, pause, topology
from localcluster.kubelet.cluster import NodeKind

if TYPE_CHECKING:
    from pathlib import Path

TOPOLOGY = topology.Topology(201)
KIND = NodeKind("gpu-a", gpus=2, environment=(("AVATAR_DEVICE", "cpu"),))


def test_networks_of_clusters_and_nodes_do_not_overlap() -> None:
    networks = [ipaddress.ip_network(topology.Topology(n).network) for n in topology.NUMBERS]
    networks.append(ipaddress.ip_network("10.96.0.0/16"))  # Services
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])
    nodes = [TOPOLOGY.node(index) for index in range(40)]
    pods = [ipaddress.ip_network(node.pods) for node in nodes]
    own = ipaddress.ip_network("10.201.0.0/24")
    assert not any(a.overlaps(b) for i, a in enumerate((*pods, own)) for b in pods[:i])
    assert all(ipaddress.ip_address(node.address) in own for node in nodes)
    assert len({node.address for node in nodes} | {TOPOLOGY.host}) == 41


def test_names_of_interfaces_fit_the_kernel() -> None:
    last = topology.Topology(topology.NUMBERS[-1])
    assert max(len(last.bridge), len(last.node(39).link)) < 16  # IFNAMSIZ, with its end


def test_node_with_gpus_looks_like_one() -> None:
    plan = KIND.plan(TOPOLOGY, 0)
    assert plan.labels["nvidia.com/gpu.product"] == "NVIDIA-GeForce-RTX-4090"
    assert plan.labels["nvidia.com/gpu.memory"] == "24564"
    assert NodeKind("cpu-a").plan(TOPOLOGY, 1).labels == {"topology.kubernetes.io/zone": "local-1"}


def test_kubelet_uses_its_own_cgroup_and_the_names_of_the_cluster() -> None:
    plan = KIND.plan(TOPOLOGY, 0)
    document = documents.kubelet(plan, "/avatar-201-0")
    assert document["cgroupRoot"] == "/avatar-201-0"
    assert document["clusterDNS"] == [TOPOLOGY.host]
    assert document["authentication"]["anonymous"] == {"enabled": False}
    assert documents.cni(plan)["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.201.10.0/24"}]]


def test_containerd_configuration_is_toml() -> None:
    parsed = tomllib.loads(documents.containerd("/etc/spec.json"))
    cri = parsed["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == documents.PAUSE_IMAGE
    runc = cri["containerd"]["runtimes"]["runc"]
    assert runc["base_runtime_spec"] == "/etc/spec.json"


def test_variables_of_a_node_come_after_those_of_the_spec() -> None:
    spec = {"process": {"env": ["PATH=/bin"], "cwd": "/", "rlimits": [{}]}, "root": {}}
    changed = documents.with_environment(spec, {"AVATAR_DEVICE": "cpu"})
    assert changed["process"] == {"env": ["PATH=/bin", "AVATAR_DEVICE=cpu"], "cwd": "/"}
    assert spec["process"]["env"] == ["PATH=/bin"]


def test_services_with_an_address_have_a_name() -> None:
    def service(name: str, address: str) -> dict[str, object]:
        return {"metadata": {"name": name, "namespace": "a"}, "spec": {"clusterIP": address}}

    found = dns.hosts([service("web", "10.96.0.7"), service("none", "None"), service("new", "")])
    assert found == {"web.a-10.96.0.7": "10.96.0.7 web.a.svc.cluster.local\n"}


@pytest.mark.skipif(not pause.PROGRAM.exists(), reason="catatonit is missing")
def test_image_of_the_sandbox_is_a_consistent_archive(tmp_path: Path) -> None:
    path = tmp_path / "pause.tar"
    pause.write(path)
    with tarfile.open(path) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        def blob(digest: str) -> bytes:
            content = read(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
            return content

        (described,) = json.loads(read("index.json"))["manifests"]
        assert described["annotations"]["io.containerd.image.name"] == documents.PAUSE_IMAGE
        manifest = json.loads(blob(described["digest"]))
        (layer,) = manifest["layers"]
        config = json.loads(blob(manifest["config"]["digest"]))
        assert config["rootfs"]["diff_ids"] == [layer["digest"]]
        assert pause.PROGRAM.read_bytes() in blob(layer["digest"])


def test_module_of_the_kubelet_has_the_versions_of_the_control_plane() -> None:
    def versions(path: Path) -> dict[str, str]:
        lines = re.findall(r"^\s*(?:require )?(\S+) (v\S+)", path.read_text(), re.MULTILINE)
        return dict(lines)

    control, node = versions(paths.MODULE / "go.mod"), versions(cluster.MODULE / "go.mod")
    assert node["k8s.io/kubernetes"] == control["k8s.io/kubernetes"]
    differ = {name for name in node.keys() & control.keys() if node[name] != control[name]}
    assert differ == set()
