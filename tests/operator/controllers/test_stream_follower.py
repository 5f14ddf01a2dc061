"""Tests of the stream follower: which pods are followed, and with which token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_contracts.tokens import control_token, gateway_key, gateway_token
from avatar_operator.controllers.stream_follower import StreamFollower
from avatar_operator.core.cache.entries import ChangeImpact, Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.core.keys import KeyRing
from avatar_operator.streams.endpoint import Endpoint

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make

MASTER = "a-master-key"
RING = KeyRing(MASTER)


class RecordingStreams:
    """Takes the place of the states of runtimes or gateways."""

    def __init__(self) -> None:
        self.followed: dict[str, Endpoint] = {}
        self.closed = False

    def follow(self, uid: str, endpoint: Endpoint) -> None:
        self.followed[uid] = endpoint

    def unfollow(self, uid: str) -> None:
        self.followed.pop(uid, None)

    async def close(self) -> None:
        self.closed = True


class Setup:
    """A follower over a store with one runtime pod and one gateway."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.store = Store((), "system")
        self.runtimes, self.gateways = RecordingStreams(), RecordingStreams()
        self.unfollowed: list[str] = []
        runtimes: Any = self.runtimes
        gateways: Any = self.gateways
        self.follower = StreamFollower(self.store, runtimes, gateways, self.unfollowed.append)
        gateway = make.pod_body("gw", gpus=0, metadata={"namespace": "system"})
        gateway["metadata"]["labels"] = {
            "app.kubernetes.io/component": "gateway",
            "app.kubernetes.io/name": "avatar-operator",
        }
        gateway["status"]["podIP"] = "fd00::1"
        self.gateway = gateway
        self.observe(make.pod_body("p0"))
        self.observe(gateway)

    def observe(self, body: Body) -> ChangeImpact:
        impact = self.store.observe(Kind.PODS, body)
        self.follower.on_change(impact)
        return impact

    def change(self, body: Body, version: str) -> Body:
        body["metadata"]["resourceVersion"] = version
        return body


@pytest.fixture
def setup(make: Make) -> Setup:
    return Setup(make)


def test_pods_that_were_observed_before_the_master_key_are_followed_at_the_start(
    setup: Setup,
) -> None:
    assert (setup.runtimes.followed, setup.gateways.followed) == ({}, {})
    setup.follower.start(RING)
    token = control_token(MASTER, "acme/concierge")
    assert setup.runtimes.followed == {"uid-p0": Endpoint("p0", "10.0.0.1:9090", token, ready=True)}
    token = gateway_token(gateway_key(MASTER))
    # Gateways of earlier releases derive their token from the master key.
    others = (gateway_token(MASTER),)
    endpoint = Endpoint("gw", "[fd00::1]:9090", token, other_tokens=others)
    assert setup.gateways.followed == {"uid-gw": endpoint}


def test_a_pod_that_is_observed_later_is_followed_immediately(setup: Setup) -> None:
    setup.follower.start(RING)
    setup.observe(setup.make.pod_body("p1"))
    assert set(setup.runtimes.followed) == {"uid-p0", "uid-p1"}


def test_an_adopted_pod_keeps_the_token_of_the_service_that_created_it(setup: Setup) -> None:
    setup.follower.start(RING)
    body = setup.change(setup.make.pod_body("p0"), "8")
    body["metadata"]["labels"]["avatar.musetalk.io/service"] = "other"
    body["metadata"]["labels"]["avatar.musetalk.io/made-for"] = "concierge"
    setup.observe(body)
    token = control_token(MASTER, "acme/concierge")
    assert setup.runtimes.followed["uid-p0"].token == token


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"podIP": ""}, id="no address"),
        pytest.param({"containerStatuses": [{"name": "runtime", "state": {}}]}, id="not running"),
    ],
)
def test_a_runtime_pod_that_cannot_send_is_not_followed(setup: Setup, status: Body) -> None:
    setup.follower.start(RING)
    setup.observe(setup.change(setup.make.pod_body("p0", status=status), "8"))
    assert setup.runtimes.followed == {}
    assert setup.unfollowed == ["uid-p0", "uid-p0"]  # before the master key was known, and now


@pytest.mark.parametrize("status", [{"podIP": ""}, {"phase": "Pending"}], ids=["address", "phase"])
def test_a_gateway_that_cannot_send_is_not_followed(setup: Setup, status: Body) -> None:
    setup.follower.start(RING)
    setup.gateway["status"].update(status)
    setup.observe(setup.change(setup.gateway, "8"))
    assert setup.gateways.followed == {}


def test_deleted_pods_are_not_followed(setup: Setup) -> None:
    setup.follower.start(RING)
    for uid in ("uid-p0", "uid-gw"):
        setup.follower.on_change(setup.store.observe_deletion(Kind.PODS, uid))
    assert (setup.runtimes.followed, setup.gateways.followed) == ({}, {})
    assert setup.unfollowed[-1] == "uid-p0"


async def test_both_kinds_of_streams_are_closed(setup: Setup) -> None:
    await setup.follower.close()
    assert setup.runtimes.closed
    assert setup.gateways.closed
