"""README's path on a real cluster, followed with the commands that README prints.

The control plane, kubectl, helm and pip are real. Two things stand in for a real cluster: images
are processes (`tests/cluster/nodes-simulated.yaml`), and, because the process nodes do not
implement it, `kubectl port-forward` is a relay that resolves the Service as kubectl would. The
packages that the client depends on come from the environment of the tests, not from the network.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio

from localcluster import paths, readme, waiting
from localcluster.controlplane.cluster import running
from localcluster.readme import FIRST_SESSION_PORT, OPERATIONS, README, Reader, commands, section

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

SYSTEM: Final = "avatar-system"

KUBECTL: Final = """#!{python}
import os, subprocess, sys

words = sys.argv[1:]
if "port-forward" not in words:
    os.execv({kubectl!r}, [{kubectl!r}, *words])
os.execv(sys.executable, [sys.executable, {relay!r}, *words])
"""

RELAY: Final = '''
"""Does what `kubectl port-forward service/NAME LOCAL:PORT` does, for pods with an address here."""

import argparse
import asyncio
import json
import subprocess

parser = argparse.ArgumentParser()
parser.add_argument("command", choices=["port-forward"])
parser.add_argument("--namespace", "-n", default="default")
parser.add_argument("target")
parser.add_argument("ports")
asked = parser.parse_args()
kind, _, name = asked.target.partition("/")
assert kind in ("service", "svc"), asked.target
local, _, remote = asked.ports.partition(":")


def get(*words):
    command = [{kubectl!r}, "get", "--namespace", asked.namespace, *words, "-o", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


service = get("service", name)
(port,) = (each for each in service["spec"]["ports"] if each["port"] == int(remote))
selector = ",".join(f"{{key}}={{value}}" for key, value in service["spec"]["selector"].items())
pod = get("pods", "--selector", selector)["items"][0]
(number,) = (
    each["containerPort"]
    for container in pod["spec"]["containers"]
    for each in container["ports"]
    if port["targetPort"] in (each["name"], each["containerPort"])
)


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def serve(reader, writer):
    up_reader, up_writer = await asyncio.open_connection(pod["status"]["podIP"], number)
    await asyncio.gather(
        copy(reader, up_writer), copy(up_reader, writer), return_exceptions=True
    )


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(local))
    print(f"Forwarding from 127.0.0.1:{{local}} -> {{number}}", flush=True)
    await server.serve_forever()


asyncio.run(main())
'''


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Reader]:
    folder = tmp_path_factory.mktemp("readme")
    tools = folder / "tools"
    tools.mkdir()
    copy = folder / "avatar-service"
    readme.copy_repository(copy)
    async with running(folder / "cluster", nodes=paths.SIMULATED_NODES) as cluster:
        kubectl = str(cluster.bin_dir / "kubectl")
        relay = tools / "relay.py"
        relay.write_text(RELAY.format(kubectl=kubectl))
        readme.write_tool(
            tools / "kubectl",
            KUBECTL.format(python=sys.executable, kubectl=kubectl, relay=str(relay)),
        )
        environment = readme.environment(cluster, tools, folder)
        yield Reader(cluster, copy, environment)


async def test_commands_of_readme_lead_to_a_talking_avatar(reader: Reader) -> None:
    with socket.socket() as probe:  # README's port cannot be another one
        if probe.connect_ex(("127.0.0.1", FIRST_SESSION_PORT)) == 0:
            pytest.fail(f"port {FIRST_SESSION_PORT} of this machine, which README names, is used")
    # Else the shortened installation below would prove nothing.
    assert readme.missing_dependencies() == []
    output = await reader.follow(commands(section(README, "On a real cluster")))
    assert re.search(r"^concierge +1 +1 .*Serving", output, re.M), output
    assert (reader.folder / "talking.mp4").stat().st_size > 10_000
    talked = json.loads(output[output.index("\n{\n") : output.rindex("\n}\n") + 2])
    assert talked["ok"], talked
    assert talked["frames"] > 25
    assert "rtx-4090-a" in output  # from `avatar-operator plan`


async def test_helm_uninstall_leaves_what_the_documentation_lists(reader: Reader) -> None:
    cluster = reader.cluster
    before = {name: await objects(cluster, name) for name in KINDS}
    serving = in_default(before["pods"])
    assert serving
    await cluster.helm("uninstall", "avatar", "--namespace", SYSTEM, "--wait")
    await waiting.until(
        lambda: objects(cluster, "pods"), lambda left: left == serving, "only runtime pods are left"
    )
    left = {name: await objects(cluster, name) for name in KINDS}
    listed = re.findall(r"^\| `(\w+)` \|", section(OPERATIONS, "Uninstall"), re.M)
    assert "avatars" in listed  # README's path creates none
    assert {name for name, found in left.items() if found} == {*listed} - {"avatars"}
    assert left["avatarservices"] == before["avatarservices"]
    assert "default/concierge-control" in left["secrets"]
    assert "default/concierge-live" in left["poddisruptionbudgets"]
    phase = ("get", "pods", "-o", "jsonpath={.items[*].status.phase}")
    phases = (await cluster.kubectl(*phase)).split()
    assert phases == ["Running"] * len(serving)  # they hold their GPUs

    # The same release again, in the same namespace, continues with the pods.
    install = re.search(r"^helm install .*?(?<!\\)\n", commands(README), re.M | re.S)
    assert install
    await reader.follow(install[0])
    ready = "jsonpath={.status.conditions[?(@.type=='StateFresh')].status}"
    await waiting.until(
        lambda: cluster.kubectl("get", "avs", "concierge", "-o", ready),
        lambda status: status == "True",
        "the new operator hears the pods",
        60,
    )
    assert in_default(await objects(cluster, "pods")) == serving


def in_default(found: dict[str, str]) -> dict[str, str]:
    return {name: uid for name, uid in found.items() if name.startswith("default/")}


async def test_commands_of_the_uninstall_section_leave_nothing(reader: Reader) -> None:
    await reader.follow(commands(section(README, "Uninstall")))
    assert "musetalk" not in await reader.cluster.kubectl("get", "crd", "-o", "name")
    for kind in KINDS:
        if kind not in ("avatarservices", "avatars", "gpuprofiles"):  # their CRDs are gone
            assert await objects(reader.cluster, kind) == {}, kind
    namespaces = await reader.cluster.kubectl("get", "namespaces", "-o", "name")
    assert f"namespace/{SYSTEM}" not in namespaces.split()


KINDS: Final = (
    "avatarservices",
    "avatars",
    "gpuprofiles",
    "customresourcedefinitions",
    "pods",
    "secrets",
    "configmaps",
    "serviceaccounts",
    "services",
    "deployments",
    "jobs",
    "leases",
    "poddisruptionbudgets",
    "networkpolicies",
    "clusterroles",
    "clusterrolebindings",
    "roles",
    "rolebindings",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
)
"""Every kind of which the chart or the operator creates objects."""

OF_THE_CLUSTER: Final = re.compile(
    r"^(kube-|default/(kubernetes|kube-root-ca\.crt|default)$)|/(kube-root-ca\.crt|default)$"
    r"|^/(?!.*(avatar|musetalk))"
)
"""What every cluster has."""


async def objects(cluster: ControlPlane, kind: str) -> dict[str, str]:
    """Return the UIDs of the objects of a kind that the product has made, by namespace/name."""
    fields = "{range .items[*]}{.metadata.namespace}/{.metadata.name} {.metadata.uid}{'\\n'}{end}"
    listed = await cluster.kubectl("get", kind, "--all-namespaces", "-o", f"jsonpath={fields}")
    pairs = (line.split() for line in listed.splitlines())
    return {name: uid for name, uid in pairs if not OF_THE_CLUSTER.search(name)}
