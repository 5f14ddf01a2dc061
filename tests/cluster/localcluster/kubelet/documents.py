"""The configuration files of a node, as values. All paths are those that the node itself sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from localcluster.kubelet import topology

if TYPE_CHECKING:
    from collections.abc import Mapping

PAUSE_IMAGE: Final = "localhost/pause:1"
CNI_VERSION: Final = "0.4.0"
CONTAINERD_SOCKET: Final = "/run/containerd/containerd.sock"
ETC: Final = "/etc/avatar-node"
"""Where a node sees its own configuration."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What makes one node different from another."""

    name: str
    addresses: topology.NodeAddresses
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    """Set in every container of the node, as a device plugin sets variables for its devices."""


def kubelet(plan: NodePlan, cgroup: str) -> dict[str, Any]:
    """Return the KubeletConfiguration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": plan.addresses.address,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{ETC}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "clusterDomain": topology.CLUSTER_DOMAIN,
        "clusterDNS": [plan.addresses.topology.host],
        "resolvConf": f"{ETC}/resolv.conf",
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "10s",
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMaximumGCAge": "0s",
        # The disk is that of this machine, whose other users are no concern of the node.
        "evictionHard": {"memory.available": "64Mi", "nodefs.available": "1%"},
        "serializeImagePulls": False,
        "rotateCertificates": False,
    }


def kube_proxy(plan: NodePlan) -> dict[str, Any]:
    """Return the KubeProxyConfiguration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": plan.addresses.address,
        "hostnameOverride": plan.name,
        "clusterCIDR": plan.addresses.topology.network,
        "clientConnection": {"kubeconfig": f"{ETC}/kube-proxy.kubeconfig"},
        # The limits of connections belong to the machine, not to the namespace of a node.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s"},
    }


def cni(plan: NodePlan) -> dict[str, Any]:
    """Return the CNI configuration: routes to the pods, without a bridge in the node."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": plan.addresses.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [{"type": "ptp", "ipMasq": False, "ipam": ipam}]
    return {"cniVersion": CNI_VERSION, "name": "pods", "plugins": plugins}


def containerd(spec: str) -> str:
    """Return containerd's config.toml; `spec` is the base of the OCI spec of all containers."""
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{ETC}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "{spec}"
"""


def resolv_conf(host: str) -> str:
    """Return the resolv.conf of the node itself."""
    return f"nameserver {host}\n"


def with_environment(spec: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return an OCI runtime spec with variables, which those of an image or a pod override.

    The spec that `ctr` prints limits containers to 1024 files; a kubelet's containers have the
    limits of containerd.
    """
    process = {name: value for name, value in spec["process"].items() if name != "rlimits"}
    process["env"] = [*process.get("env", ()), *(f"{k}={v}" for k, v in environment.items())]
    return {**spec, "process": process}
