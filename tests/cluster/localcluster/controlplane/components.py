"""The command lines of the control plane's components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from localcluster.controlplane.certificates import Pki

if TYPE_CHECKING:
    from collections.abc import Iterable

    from localcluster.paths import Layout

ETCD: Final = "etcd"
API_SERVER: Final = "kube-apiserver"
CONTROLLER_MANAGER: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"
LOOPBACK: Final = "127.0.0.1"
PROCESS_NODE: Final = "process-node"
CONTROL_PLANE: Final = (ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER)
ALL: Final = (*CONTROL_PLANE, PROCESS_NODE)

# Only the metadata of writes: enough to count who changes what, at almost no cost.
AUDIT_POLICY: Final = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    verbs: [create, update, patch, delete, deletecollection]
  - level: None
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of the components on 127.0.0.1, and the address of the API server."""

    etcd: int
    etcd_peer: int
    api_server: int
    controller_manager: int
    scheduler: int
    api_address: str = LOOPBACK
    """Real nodes and their pods need an address that is not of the loopback."""

    @property
    def etcd_url(self) -> str:
        return f"https://127.0.0.1:{self.etcd}"

    @property
    def server(self) -> str:
        return f"https://{self.api_address}:{self.api_server}"

    def health_url(self, component: str) -> str:
        """Return the URL that answers 200 once the component is ready."""
        return {
            ETCD: f"{self.etcd_url}/readyz",
            API_SERVER: f"{self.server}/readyz",
            CONTROLLER_MANAGER: f"https://127.0.0.1:{self.controller_manager}/healthz",
            SCHEDULER: f"https://127.0.0.1:{self.scheduler}/healthz",
        }[component]


def arguments(component: str, layout: Layout, ports: Ports) -> tuple[str, ...]:
    """Return the whole command line of a control plane component."""
    flags = {
        ETCD: _etcd,
        API_SERVER: _api_server,
        CONTROLLER_MANAGER: _controller_manager,
        SCHEDULER: _scheduler,
    }[component]
    return (str(layout.bin / component), *flags(layout, Pki(layout.pki), ports))


def _etcd(layout: Layout, pki: Pki, ports: Ports) -> Iterable[str]:
    peer = f"https://127.0.0.1:{ports.etcd_peer}"
    yield "--name=localcluster"
    yield f"--data-dir={layout.etcd_data}"
    yield "--unsafe-no-fsync"  # the data is deleted with the cluster
    yield f"--listen-client-urls={ports.etcd_url}"
    yield f"--advertise-client-urls={ports.etcd_url}"
    yield f"--listen-peer-urls={peer}"
    yield f"--initial-advertise-peer-urls={peer}"
    yield f"--initial-cluster=localcluster={peer}"
    for prefix in ("", "peer-"):
        yield f"--{prefix}client-cert-auth"
        yield f"--{prefix}trusted-ca-file={pki.ca}"
        yield f"--{prefix}cert-file={pki.certificate('server')}"
        yield f"--{prefix}key-file={pki.key('server')}"


def _api_server(layout: Layout, pki: Pki, ports: Ports) -> Iterable[str]:
    yield from _serving(pki, ports.api_server, ports.api_address)
    yield f"--advertise-address={ports.api_address}"
    if ports.api_address == LOOPBACK:
        # Service `kubernetes` gets no endpoint, because a loopback address is not allowed there.
        yield "--endpoint-reconciler-type=none"
    yield f"--etcd-servers={ports.etcd_url}"
    yield f"--etcd-cafile={pki.ca}"
    yield f"--etcd-certfile={pki.certificate('etcd-client')}"
    yield f"--etcd-keyfile={pki.key('etcd-client')}"
    yield f"--client-ca-file={pki.ca}"
    yield "--authorization-mode=Node,RBAC"
    yield "--allow-privileged=true"
    yield "--service-cluster-ip-range=10.96.0.0/16"
    yield "--service-account-issuer=https://kubernetes.default.svc.cluster.local"
    yield f"--service-account-key-file={pki.service_account_key}"
    yield f"--service-account-signing-key-file={pki.service_account_key}"
    yield "--kubelet-preferred-address-types=InternalIP"
    yield f"--kubelet-client-certificate={pki.certificate('kubelet-client')}"
    yield f"--kubelet-client-key={pki.key('kubelet-client')}"
    yield f"--audit-policy-file={layout.audit_policy}"
    yield f"--audit-log-path={layout.audit_log}"
    yield from _front_proxy(pki)


def _front_proxy(pki: Pki) -> Iterable[str]:
    """Yield the flags that aggregated APIs, such as metrics adapters, need."""
    yield f"--requestheader-client-ca-file={pki.certificate('front-proxy-ca')}"
    yield "--requestheader-allowed-names=front-proxy-client"
    yield "--requestheader-username-headers=X-Remote-User"
    yield "--requestheader-group-headers=X-Remote-Group"
    yield "--requestheader-extra-headers-prefix=X-Remote-Extra-"
    yield f"--proxy-client-cert-file={pki.certificate('front-proxy')}"
    yield f"--proxy-client-key-file={pki.key('front-proxy')}"


def _controller_manager(layout: Layout, pki: Pki, ports: Ports) -> Iterable[str]:
    yield from _serving(pki, ports.controller_manager)
    yield from _client(layout, CONTROLLER_MANAGER)
    yield "--use-service-account-credentials"
    yield f"--service-account-private-key-file={pki.service_account_key}"
    yield f"--root-ca-file={pki.ca}"
    yield "--horizontal-pod-autoscaler-sync-period=2s"
    # Without this flag, creating an account for each controller takes half of the start time.
    yield "--kube-api-qps=200"
    yield "--kube-api-burst=300"


def _scheduler(layout: Layout, pki: Pki, ports: Ports) -> Iterable[str]:
    yield from _serving(pki, ports.scheduler)
    yield from _client(layout, SCHEDULER)
    # A binding takes two requests: the default of 50 per second would limit a scale test.
    yield "--kube-api-qps=1000"
    yield "--kube-api-burst=1000"


def _serving(pki: Pki, port: int, address: str = LOOPBACK) -> Iterable[str]:
    yield f"--bind-address={address}"
    yield f"--secure-port={port}"
    yield f"--tls-cert-file={pki.certificate('server')}"
    yield f"--tls-private-key-file={pki.key('server')}"


def _client(layout: Layout, user: str) -> Iterable[str]:
    kubeconfig = layout.kubeconfig(user)
    yield f"--kubeconfig={kubeconfig}"
    yield f"--authentication-kubeconfig={kubeconfig}"
    yield f"--authorization-kubeconfig={kubeconfig}"
    yield "--leader-elect=false"
