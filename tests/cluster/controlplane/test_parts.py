"""The parts of the control plane that need no cluster."""

from __future__ import annotations

import datetime
import json
import socket
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509
from cryptography.x509 import verification

from localcluster import errors, paths
from localcluster.controlplane import (
    audit,
    certificates,
    components,
    folder,
    kubeconfigs,
    ports,
    processes,
)

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
PORTS = components.Ports(20001, 20002, 20003, 20004, 20005)
STATE = folder.State(processes.Identity(10, 11), processes.Identity(20, 21), PORTS, 4.5)


@pytest.fixture
def layout(tmp_path: Path) -> paths.Layout:
    return paths.Layout.of(tmp_path / "state")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> certificates.Pki:
    made = certificates.Pki(tmp_path_factory.mktemp("pki"))
    certificates.write(made, NOW)
    return made


def load(pki: certificates.Pki, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pki.certificate(name).read_bytes())


def verifier(pki: certificates.Pki, authority: str) -> verification.PolicyBuilder:
    store = verification.Store([load(pki, authority)])
    return verification.PolicyBuilder().store(store).time(NOW)


@pytest.mark.parametrize("name", ["localhost", "kubernetes.default.svc"])
def test_the_serving_certificate_is_valid_for_its_names(pki: certificates.Pki, name: str) -> None:
    subject = x509.DNSName(name)
    chain = verifier(pki, "ca").build_server_verifier(subject).verify(load(pki, "server"), [])
    assert len(chain) == 2


@pytest.mark.parametrize(
    ("file", "user", "group"),
    [
        ("admin", "kubernetes-admin", "system:masters"),
        ("kube-scheduler", "system:kube-scheduler", None),
    ],
)
def test_client_certificates_carry_user_and_group(
    pki: certificates.Pki, file: str, user: str, group: str | None
) -> None:
    subject = load(pki, file).subject
    names = x509.NameOID.COMMON_NAME, x509.NameOID.ORGANIZATION_NAME
    found = [[a.value for a in subject.get_attributes_for_oid(oid)] for oid in names]
    assert found == [[user], [group] if group else []]


def test_the_front_proxy_has_its_own_authority(pki: certificates.Pki) -> None:
    load(pki, "front-proxy").verify_directly_issued_by(load(pki, "front-proxy-ca"))
    with pytest.raises(ValueError, match="does not match"):
        load(pki, "front-proxy").verify_directly_issued_by(load(pki, "ca"))


def test_keys_are_readable_only_by_their_owner(pki: certificates.Pki) -> None:
    modes = {path.stat().st_mode & 0o777 for path in pki.folder.glob("*.key")}
    assert modes == {0o600}


def test_a_kubeconfig_embeds_its_credentials(pki: certificates.Pki, tmp_path: Path) -> None:
    user = kubeconfigs.token_user("secret")
    path = kubeconfigs.write(tmp_path / "a" / "b", "https://127.0.0.1:1", pki.ca, user, "acme")
    document = yaml.safe_load(path.read_text())
    assert document["users"][0]["user"] == {"token": "secret"}
    assert document["contexts"][0]["context"]["namespace"] == "acme"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_api_server_listens_on_loopback_with_rbac(layout: paths.Layout) -> None:
    arguments = components.arguments(components.API_SERVER, layout, PORTS)
    assert arguments[0] == str(layout.bin / "kube-apiserver")
    assert {
        "--bind-address=127.0.0.1",
        "--secure-port=20003",
        "--etcd-servers=https://127.0.0.1:20001",
        "--authorization-mode=Node,RBAC",
        "--kubelet-preferred-address-types=InternalIP",
    } <= set(arguments)


def test_every_component_uses_its_port(layout: paths.Layout) -> None:
    for name, port in zip(components.CONTROL_PLANE, (20001, 20003, 20004, 20005), strict=True):
        assert f":{port}/" in PORTS.health_url(name)
        assert any(str(port) in text for text in components.arguments(name, layout, PORTS)[1:])


def test_the_horizontal_pod_autoscaler_syncs_every_two_seconds(layout: paths.Layout) -> None:
    arguments = components.arguments(components.CONTROLLER_MANAGER, layout, PORTS)
    assert "--horizontal-pod-autoscaler-sync-period=2s" in arguments


def test_free_ports_differ_and_can_be_bound() -> None:
    found = ports.find_free(5)
    assert len(set(found)) == 5
    assert [ports.check_free(port) for port in found] == list(found)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(errors.PortTaken, match=f"port {port} .* in use"):
            ports.check_free(port)


def test_a_written_record_is_read_back(layout: paths.Layout) -> None:
    folder.claim(layout)
    assert folder.read(layout) is None
    folder.write(layout, STATE)
    assert folder.read(layout) == STATE
    folder.forget(layout)
    assert folder.read(layout) is None


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(errors.ForeignFolder):
        folder.claim(paths.Layout.of(tmp_path))


def test_a_folder_has_one_owner_at_a_time(layout: paths.Layout) -> None:
    folder.claim(layout)
    with folder.held(layout):
        folder.write(layout, STATE)
        with pytest.raises(errors.AlreadyRunning, match="process 10"), folder.held(layout):
            pass
    with folder.held(layout):
        pass


def test_filling_resets_the_folder(layout: paths.Layout, tmp_path: Path) -> None:
    folder.claim(layout)
    folder.fill(layout, {"etcd": tmp_path / "etcd"}, PORTS, NOW)
    (layout.etcd_data / "old").touch()
    first = layout.admin_kubeconfig.read_text()
    folder.fill(layout, {"etcd": tmp_path / "etcd"}, PORTS, NOW)
    assert list(layout.etcd_data.iterdir()) == []
    assert (layout.bin / "etcd").readlink() == tmp_path / "etcd"
    assert layout.admin_kubeconfig.read_text() != first


def event(user: str, at: str) -> str:
    return json.dumps(
        {
            "stageTimestamp": at,
            "verb": "patch",
            "user": {"username": user},
            "objectRef": {
                "resource": "avatarservices",
                "apiGroup": "avatar.musetalk.io",
                "subresource": "status",
                "namespace": "acme",
                "name": "concierge",
            },
            "responseStatus": {"code": 200},
        }
    )


def test_the_audit_log_is_read_by_user_and_time(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    early, late = "2026-03-01T00:00:00.000001Z", "2026-03-01T00:00:00.000002Z"
    log.write_text("".join(event(u, t) + "\n" for u in ("a", "b") for t in (early, late)) + "{")
    assert len(audit.read(log)) == 4
    (write,) = audit.read(log, "b", since=early)
    assert (write.user, write.at, write.code) == ("b", late, 200)
    assert write.resource == "avatarservices.avatar.musetalk.io/status"


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert paths.tail(log) == ""
    log.write_text("".join(f"{n}\n" for n in range(10_000)))
    assert paths.tail(log, lines=2) == "9998\n9999"
