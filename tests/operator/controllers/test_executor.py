"""Tests of the executor: the requests of each action, and what becomes of their errors."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from avatar_contracts.owners import Owner
from avatar_operator.controllers.executor import Executor, status_delay_s
from avatar_operator.controllers.service_state import ServiceState
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.cache.pdb_index import PdbIndex
from avatar_operator.core.keys import KeyRing
from avatar_operator.core.manifests.ownership import Choice
from avatar_operator.core.manifests.pod import PodSettings
from avatar_operator.core.planning import disruption, planner
from avatar_operator.core.planning.actions import CreatePod
from avatar_operator.core.resources.devices import DeviceGroup
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.core.status.service_status import Notice
from avatar_operator.errors import (
    Conflict,
    FieldConflict,
    NameTaken,
    NotFound,
    Refused,
    RuntimeUnreachable,
    TemporaryError,
)
from avatar_operator.kube.owned_objects import ObjectKind
from avatar_operator.kube.unread_secrets import Written
from avatar_operator.metrics import Metrics
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.operator.conftest import Body, Make, Scenarios

    from avatar_operator.fence import Fence

GROUP = "avatar.musetalk.io"
POD = {"kind": "Pod", "metadata": {"uid": "u"}}
RULES = {"egress": [], "ingress": [], "policyTypes": ["Ingress", "Egress"]}


class FakeSecrets:
    """Writes every Secret under its first name, unless a test says which one is taken."""

    def __init__(self, api: FakeApi) -> None:
        self._api = api
        self.taken: tuple[str, ...] = ()

    async def write(
        self, body: Body, candidates: Sequence[str], service: Owner, *, is_new: bool
    ) -> Written:
        self._api.record("write_secret", body, candidates, service)
        name = next(each for each in candidates if each not in self.taken)
        return Written(name, self.taken, self._api.differs)

    async def add_owner(self, *values: Any) -> None:
        self._api.record("add_owner", *values)


class FakeApi:
    """Records the requests of `KubernetesClient`, and raises the errors that a test prepares."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, ...]] = []
        self.errors: dict[str, Exception] = {}
        self.exists = False
        self.choice: Choice | None = None
        self.differs = True
        self.found: Body | None = None
        self.deleted: Body = POD
        self.owned = self
        self.secrets = FakeSecrets(self)

    def record(self, method: str, *values: Any) -> None:
        self.requests.append((method, *values))
        if method in self.errors:
            raise self.errors[method]

    @property
    def methods(self) -> list[str]:
        return [request[0] for request in self.requests]

    async def find(self, *values: Any) -> Choice:
        self.record("find", *values)
        return self.choice or Choice(values[2][0], None)

    async def write(self, kind: ObjectKind, body: Body, stored: Body | None) -> Body | None:
        self.record("write", kind, body, stored)
        return body | {"metadata": {**body["metadata"], "uid": "pdb"}} if self.differs else None

    async def find_pod(self, *values: Any) -> Body | None:
        self.record("find_pod", *values)
        return self.found

    async def create_pod(self, body: Body) -> Body:
        self.record("create_pod", body)
        return POD

    async def patch_pod_metadata(self, *values: Any) -> Body:
        self.record("patch_pod_metadata", *values)
        return POD

    async def delete_pod(self, *values: Any) -> Body:
        self.record("delete_pod", *values)
        return self.deleted

    async def service_exists(self, *values: Any) -> bool:
        self.record("service_exists", *values)
        return self.exists

    async def apply_status(self, *values: Any) -> Body:
        self.record("apply_status", *values)
        return {"kind": "AvatarService"}

    async def create_event(self, body: Body) -> None:
        self.record("create_event", body)

    async def drain(self, uid: str, draining: bool) -> None:
        self.record("drain", uid, draining)


class Setup:
    """An executor on a fake API; `drain` of the runtimes goes to the same fake."""

    def __init__(self, make: Make, fence: Fence) -> None:
        self.make = make
        self.service = make.service()
        self.state = ServiceState(control_secret="concierge-control")
        self.api = FakeApi()
        self.metrics = Metrics()
        self.pdbs = PdbIndex()
        self.observed: list[tuple[Kind, Body]] = []
        self.deletions: list[tuple[Kind, str]] = []
        fake: Any = self.api
        self.executor = Executor(
            fake,
            fake,
            fence,
            PodSettings("image", "IfNotPresent", network_rules=RULES),
            self.metrics,
            self.pdbs,
            observe=lambda kind, body: self.observed.append((kind, body)),
            observe_deletion=lambda kind, uid: self.deletions.append((kind, uid)),
            keys=lambda: KeyRing("master-key"),
        )

    async def execute(self, *actions: planner.Action) -> Any:
        return await self.executor.execute(self.service, actions, self.state)

    def count(self, action: str) -> float:
        prefix = f'avatar_operator_actions_total{{action="{action}"}}'
        lines = self.metrics.render().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(prefix))


@pytest.fixture
def setup(make: Make, fence: Fence) -> Setup:
    return Setup(make, fence)


ADOPT = planner.AdoptPod(
    *("first-0", "u", "7", "rtx-4090", "first", "free warm pod", "s0", "first-control")
)
DELETE = planner.DeletePod("p", "u", "7", "rtx-4090", Reason.SCALING_DOWN, "empty")


async def test_an_adopted_pod_keeps_its_secret_and_changes_its_owner(setup: Setup) -> None:
    result = await setup.execute(ADOPT)
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "first-0", "uid": "u"}
    secret, patch = setup.api.requests
    assert secret == ("add_owner", "acme", "first-control", "s0", owner)
    assert patch[:4] == ("patch_pod_metadata", "acme", "first-0", "u")
    metadata, version = patch[4:]
    assert metadata["labels"] == {
        f"{GROUP}/service": "concierge",
        "app.kubernetes.io/instance": "concierge",
        f"{GROUP}/made-for": "first",
        f"{GROUP}/reserve": None,
    }
    assert [each["uid"] for each in metadata["ownerReferences"]] == ["s1"]
    assert version == "7"  # only the pod that was planned with: another service may be faster
    assert setup.observed == [(Kind.PODS, POD)]
    assert result.done == [ADOPT]
    assert setup.count("AdoptPod") == 1


@pytest.mark.parametrize("error", [NotFound("PATCH", 404, "gone"), Refused("PATCH", 403, "no")])
async def test_a_pod_is_adopted_even_if_its_secret_cannot_get_an_owner(
    setup: Setup, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    setup.api.errors["add_owner"] = error
    result = await setup.execute(ADOPT)
    assert setup.api.methods == ["add_owner", "patch_pod_metadata"]
    assert result.done == [ADOPT]
    assert "cannot add an owner to a Secret pod=first-0" in caplog.text


async def test_a_pod_that_another_service_adopted_first_is_skipped(setup: Setup) -> None:
    setup.api.errors["patch_pod_metadata"] = error = Conflict("PATCH", 409, "modified")
    result = await setup.execute(ADOPT)
    assert (result.done, result.outdated, result.faults) == ([], [error], [])
    assert setup.observed == []
    assert setup.count("AdoptPod") == 0


async def test_a_pod_is_not_adopted_while_the_api_server_fails(setup: Setup) -> None:
    setup.api.errors["add_owner"] = error = TemporaryError("PATCH", 503, "later")
    result = await setup.execute(ADOPT)
    assert setup.api.methods == ["add_owner"]
    assert result.faults == [error]


@pytest.mark.parametrize(
    ("action", "metadata"),
    [
        (
            disruption.ProtectPod("p", "u", "rtx-4090", "1 session"),
            {
                "labels": {f"{GROUP}/live": "true"},
                "annotations": {
                    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                    "karpenter.sh/do-not-disrupt": "true",
                },
            },
        ),
        (
            disruption.ReleasePod("p", "u", "rtx-4090", "empty"),
            {
                "labels": {f"{GROUP}/live": None},
                "annotations": {
                    "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
                    "karpenter.sh/do-not-disrupt": None,
                },
            },
        ),
        (
            planner.PromotePod("p", "u", "rtx-4090", "needed"),
            {"labels": {f"{GROUP}/reserve": None}},
        ),
        (
            planner.ReservePod("p", "u", "rtx-4090", "spare"),
            {"labels": {f"{GROUP}/reserve": "true"}},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_role_of_a_pod_is_patched_and_observed(
    setup: Setup, action: planner.Action, metadata: Body
) -> None:
    result = await setup.execute(action)
    assert setup.api.requests == [("patch_pod_metadata", "acme", "p", "u", metadata, None)]
    assert setup.observed == [(Kind.PODS, POD)]
    assert result.done == [action]


async def test_a_pod_is_created_with_the_epoch_of_the_leader(
    setup: Setup, scenarios: Scenarios
) -> None:
    plan = scenarios(replicas=1).plan()
    (create,) = [each for each in plan.actions if isinstance(each, planner.CreatePod)]
    action = replace(create, name="p", reserve=True)
    await setup.execute(action)
    ((_, body),) = setup.api.requests
    assert body["metadata"]["name"] == "p"
    assert body["metadata"]["annotations"][f"{GROUP}/epoch"] == "7"
    assert body["metadata"]["labels"][f"{GROUP}/reserve"] == "true"
    assert setup.observed == [(Kind.PODS, POD)]


async def test_an_image_check_is_created_and_deleted(setup: Setup, scenarios: Scenarios) -> None:
    pool = scenarios(replicas=1).plan().pools[0]
    create = planner.CreateImageCheck("c", pool, "n1", "to make room")
    delete = planner.DeleteImageCheck("c", "u", "7", "it is not needed")
    await setup.execute(create, delete)
    (_, body), deletion = setup.api.requests
    assert body["metadata"]["labels"][f"{GROUP}/image-check"] == "concierge"
    assert deletion == ("delete_pod", "acme", "c", "u", "7")
    assert setup.observed == [(Kind.PODS, POD)]


async def test_draining_is_posted_to_the_pod(setup: Setup) -> None:
    drain = planner.DrainPod("p", "u", "rtx-4090", Reason.SCALING_DOWN, "surplus")
    undrain = planner.UndrainPod("p", "u", "rtx-4090", "needed again")
    await setup.execute(drain, undrain)
    assert setup.api.requests == [("drain", "u", True), ("drain", "u", False)]
    assert (setup.count("DrainPod"), setup.count("UndrainPod")) == (1, 1)


async def test_the_control_secret_holds_the_token_and_counts_only_if_it_was_written(
    setup: Setup,
) -> None:
    setup.state.control_secret = ""
    action = planner.ApplyControlSecret("concierge-control")
    result = await setup.execute(action)
    assert (result.done, setup.state.has_secret) == ([action], True)
    assert setup.state.control_secret == "concierge-control"
    ((method, body, candidates, owner),) = setup.api.requests
    assert (method, owner) == ("write_secret", Owner("concierge", "s1"))
    assert candidates == ("concierge-control", "concierge-control-s1")
    tokens = {name: base64.b64decode(value) for name, value in body["data"].items()}
    assert set(tokens) == {"token", "state-token", "session-token"}
    assert len(set(tokens.values())) == 3
    assert all(len(token) >= 32 for token in tokens.values())
    setup.state.has_secret = setup.api.differs = False
    result = await setup.execute(action)
    assert (result.done, setup.state.has_secret) == ([], True)
    assert setup.count("ApplyControlSecret") == 1


async def test_pods_read_the_secret_that_belongs_to_their_service(
    setup: Setup, scenarios: Scenarios
) -> None:
    setup.api.secrets.taken = ("concierge-control",)
    (create,) = [e for e in scenarios(replicas=1).plan().actions if isinstance(e, CreatePod)]
    await setup.execute(planner.ApplyControlSecret("concierge"), create)
    bodies = [request[-1] for request in setup.api.requests if request[0] == "create_pod"]
    assert '"concierge-control-s1"' in json.dumps(bodies[0]["spec"])
    assert '"concierge-control"' not in json.dumps(bodies[0]["spec"])
    assert setup.state.names_taken == {"Secret": ("concierge-control",)}


async def test_no_pod_is_created_before_the_secret_of_the_service_is_known(
    setup: Setup, scenarios: Scenarios
) -> None:
    setup.api.errors["write_secret"] = error = NameTaken("Secret", "acme", ["a", "b"])
    (create,) = [e for e in scenarios(replicas=1).plan().actions if isinstance(e, CreatePod)]
    result = await setup.execute(planner.ApplyControlSecret("concierge"), create)
    assert setup.api.methods == ["write_secret"]
    assert (result.faults, result.done) == ([error], [])


async def test_an_applied_pdb_counts_as_correct_until_it_is_changed(setup: Setup) -> None:
    uid = setup.service.uid
    assert not setup.executor.has_pdb(uid)
    await setup.execute(planner.ApplyBudget("concierge-live"))
    assert setup.api.methods == ["find", "write"]
    assert setup.executor.has_pdb(uid)
    assert setup.pdbs.put("pdb", None) == uid
    assert not setup.executor.has_pdb(uid)


async def test_a_stored_pdb_that_is_correct_counts_without_a_write(setup: Setup) -> None:
    setup.api.choice = Choice("concierge-live", {"metadata": {"uid": "known"}})
    setup.api.differs = False
    result = await setup.execute(planner.ApplyBudget("concierge-live"))
    assert result.done == []
    assert setup.executor.has_pdb(setup.service.uid)
    assert setup.pdbs.put("known", None) == setup.service.uid


@pytest.mark.parametrize("wrote", [True, False])
async def test_the_network_policy_counts_only_if_it_was_written(setup: Setup, wrote: bool) -> None:
    setup.api.differs = wrote
    setup.api.choice = Choice("concierge-network-s1", None, ("concierge-network",))
    result = await setup.execute(planner.ApplyNetworkPolicy("concierge"))
    find, write = setup.api.requests
    kind = ObjectKind.NETWORK_POLICY
    candidates = ("concierge-network", "concierge-network-s1")
    assert find == ("find", kind, "acme", candidates, Owner("concierge", "s1"))
    _, written, body, stored = write
    assert (written, stored) == (kind, None)
    assert body["metadata"]["name"] == "concierge-network-s1"
    assert body["spec"].items() > RULES.items()
    assert len(result.done) == wrote
    assert setup.state.names_taken == {"NetworkPolicy": ("concierge-network",)}
    assert setup.state.has_network_policy


async def test_a_pod_of_claimed_gpus_names_the_template_that_its_service_owns(
    setup: Setup, scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    card = DeviceGroup("gpu.nvidia.com", "NVIDIA GeForce RTX 4090", "", 24564, 1)
    scenario.nodes = [make.node(labels={}, gpus=0, devices=(card,))]
    (create,) = (each for each in scenario.plan().actions if isinstance(each, CreatePod))
    # A template of somebody else has the first name: it could ask for other devices.
    setup.api.choice = Choice("mine", None, ("concierge-rtx-4090",))
    await setup.execute(create)
    find, write, created = setup.api.requests
    assert find[1] is ObjectKind.CLAIM_TEMPLATE
    assert write[2]["kind"] == "ResourceClaimTemplate"
    claim = {"name": "gpu", "resourceClaimTemplateName": "mine"}
    assert created[1]["spec"]["resourceClaims"] == [claim]
    assert setup.state.names_taken == {"ResourceClaimTemplate": ("concierge-rtx-4090",)}


async def test_no_pod_is_created_if_its_claim_has_no_template(
    setup: Setup, scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    card = DeviceGroup("gpu.nvidia.com", "NVIDIA GeForce RTX 4090", "", 24564, 1)
    scenario.nodes = [make.node(labels={}, gpus=0, devices=(card,))]
    (create,) = (each for each in scenario.plan().actions if isinstance(each, CreatePod))
    setup.api.errors["write"] = Refused("POST", 403, "forbidden")
    result = await setup.execute(create)
    assert "create_pod" not in setup.api.methods
    assert len(result.faults) == 1


async def test_a_field_that_another_manager_applies_is_remembered(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.api.errors["write"] = FieldConflict("PATCH", 409, 'conflict with "flux"')
    result = await setup.execute(planner.ApplyBudget("concierge-live"))
    assert setup.state.field_conflicts == {"ApplyBudget": 'conflict with "flux"'}
    assert (result.done, result.faults, result.outdated) == ([], [], [])
    assert not setup.executor.has_pdb(setup.service.uid)
    assert "field conflict service=acme/concierge" in caplog.text


@pytest.mark.parametrize(
    ("owners", "taken", "observed"),
    [
        pytest.param(None, set(), 0, id="gone again"),
        pytest.param(("s1", "concierge"), set(), 1, id="ours, of a lost event"),
        pytest.param(("s0", "concierge"), set(), 1, id="of an earlier service"),
        pytest.param(("s2", "other"), {"p"}, 1, id="of another service"),
        pytest.param((), {"p"}, 1, id="of a stranger"),
    ],
)
@pytest.mark.parametrize("kind", [CreatePod, planner.CreateImageCheck])
async def test_a_name_that_a_pod_of_others_has_is_not_tried_again(
    setup: Setup,
    scenarios: Scenarios,
    kind: type[CreatePod | planner.CreateImageCheck],
    owners: tuple[str, str] | tuple[()] | None,
    taken: set[str],
    observed: int,
) -> None:
    plan = scenarios(replicas=1).plan()
    (create,) = [each for each in plan.actions if isinstance(each, CreatePod)]
    check = planner.CreateImageCheck("p", plan.pools[0], "n1", "to make room")
    action = check if kind is planner.CreateImageCheck else replace(create, name="p")
    setup.api.errors["create_pod"] = error = Conflict("POST", 409, "already exists")
    if owners is not None:
        references = setup.make.owners(*owners) if owners else []
        setup.api.found = setup.make.pod_body("p", metadata={"ownerReferences": references})
    result = await setup.execute(action)
    assert setup.api.requests[-1] == ("find_pod", "acme", "p")
    assert (result.outdated, result.done) == ([error], [])
    assert setup.state.pods_taken == taken
    assert len(setup.observed) == observed


async def test_labels_are_restored_once_until_the_next_resync(setup: Setup) -> None:
    action = planner.RestoreLabels("p", "u", "7", "rtx-4090", "first", "changed")
    assert (await setup.execute(action)).done == [action]
    assert (await setup.execute(action)).done == []
    ((*target, metadata, version),) = setup.api.requests
    assert (target, version) == (["patch_pod_metadata", "acme", "p", "u"], "7")
    assert metadata == {
        "labels": {
            "app.kubernetes.io/name": "avatar-runtime",
            "app.kubernetes.io/instance": "concierge",
            "app.kubernetes.io/managed-by": "avatar-operator",
            f"{GROUP}/service": "concierge",
            f"{GROUP}/made-for": "first",
            f"{GROUP}/gpu-class": "rtx-4090",
        }
    }


async def test_a_failed_action_does_not_stop_the_others(setup: Setup) -> None:
    setup.api.errors["drain"] = error = RuntimeUnreachable("p", "HTTP status 500")
    drain = planner.DrainPod("p", "u", "rtx-4090", Reason.SCALING_DOWN, "surplus")
    result = await setup.execute(drain, DELETE)
    assert (result.faults, result.done) == ([error], [DELETE])
    assert setup.count("DrainPod") == 0


async def test_a_deletion_names_its_version_and_its_response_is_observed(setup: Setup) -> None:
    await setup.execute(DELETE)
    assert setup.api.requests == [("delete_pod", "acme", "p", "u", "7")]
    assert setup.observed == [(Kind.PODS, POD)]
    setup.observed.clear()
    setup.api.deleted = {"kind": "Status"}  # the pod was removed immediately
    await setup.execute(DELETE)
    assert setup.observed == []


async def test_a_pod_that_does_not_exist_any_more_is_removed_from_the_store(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    setup.api.errors["delete_pod"] = error = NotFound("DELETE", 404, "gone")
    result = await setup.execute(DELETE)
    assert setup.deletions == [(Kind.PODS, "u")]
    assert result.outdated == [error]
    assert "object changed, action skipped service=acme/concierge" in caplog.text
    setup.deletions.clear()
    setup.api.errors["delete_pod"] = Conflict("DELETE", 409, "modified")
    await setup.execute(DELETE)
    assert setup.deletions == []
    setup.api.errors["patch_pod_metadata"] = NotFound("PATCH", 404, "gone")
    await setup.execute(planner.PromotePod("p", "u", "rtx-4090", "needed"))
    assert setup.deletions == []  # only a deletion proves it


async def test_the_pods_of_a_deleted_service_are_deleted(setup: Setup) -> None:
    pods = [setup.make.pod("p0"), setup.make.pod("p1")]
    await setup.executor.finalize("s1", pods)
    assert setup.api.requests == [
        ("service_exists", ServiceKey("acme", "concierge"), "s1"),
        ("delete_pod", "acme", "p0", "uid-p0", "7"),
        ("delete_pod", "acme", "p1", "uid-p1", "7"),
    ]


async def test_the_pods_of_an_existing_service_are_not_deleted(setup: Setup) -> None:
    setup.api.exists = True
    await setup.executor.finalize("s1", [setup.make.pod("p0")])
    assert setup.api.methods == ["service_exists"]


async def test_a_deleted_service_without_pods_needs_no_request(setup: Setup) -> None:
    await setup.executor.finalize("s1", [])
    assert setup.api.requests == []


async def test_a_conflict_does_not_stop_the_deletion_of_the_other_pods(setup: Setup) -> None:
    setup.api.errors["delete_pod"] = Conflict("DELETE", 409, "modified")
    await setup.executor.finalize("s1", [setup.make.pod("p0"), setup.make.pod("p1")])
    assert setup.api.methods == ["service_exists", "delete_pod", "delete_pod"]


async def test_a_status_is_written_only_if_it_differs(setup: Setup) -> None:
    key = setup.service.key
    status = {"replicas": 1}
    await setup.executor.write_status("s1", key, 7, status, dict(status), setup.state)
    assert setup.api.requests == []
    await setup.executor.write_status("s1", key, 7, {}, status, setup.state)
    assert setup.api.requests == [("apply_status", key, "s1", 7, status)]
    assert setup.observed == [(Kind.SERVICES, {"kind": "AvatarService"})]
    assert setup.state.written_at > 0


async def test_the_status_of_a_deleted_service_is_not_observed(setup: Setup) -> None:
    setup.api.errors["apply_status"] = NotFound("PATCH", 404, "gone")
    await setup.executor.write_status("s1", setup.service.key, 7, {}, {"a": 1}, setup.state)
    assert setup.observed == []
    assert setup.state.written_at == float("-inf")


async def test_an_event_is_created_once_per_message(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    notices = [Notice(Reason.POD_CREATED, "created 1 pod"), Notice(Reason.POD_CREATED, "another")]
    for _ in range(2):
        await setup.executor.emit_events(setup.service, notices, setup.state, 0.0)
    messages = [body["message"] for _, body in setup.api.requests]
    assert messages == ["created 1 pod", "another"]
    setup.api.errors["create_event"] = Refused("POST", 403, "no")
    await setup.executor.emit_events(
        setup.service, [Notice(Reason.PODS_FAILING, "failing", True)], setup.state, 0.0
    )
    assert setup.api.requests[-1][1]["type"] == "Warning"
    assert "cannot create an Event service=acme/concierge" in caplog.text


async def test_old_messages_may_repeat_after_many_others(setup: Setup) -> None:
    notices = [Notice(Reason.POD_CREATED, str(number)) for number in range(257)]
    await setup.executor.emit_events(setup.service, notices, setup.state, 0.0)
    await setup.executor.emit_events(setup.service, notices[:1], setup.state, 0.0)
    assert [body["message"] for _, body in setup.api.requests[-2:]] == ["256", "0"]
    await setup.executor.emit_events(setup.service, notices[-1:], setup.state, 0.0)
    assert len(setup.api.requests) == 258  # the last ones are still remembered


def test_a_status_in_which_only_numbers_changed_waits_a_second() -> None:
    state = ServiceState(written_at=10.0)
    old, new = {"sessions": 1, "conditions": []}, {"sessions": 2, "conditions": []}
    assert status_delay_s(state, old, new, 10.25) == 0.75
    assert status_delay_s(state, old, new, 11.0) is None
    assert status_delay_s(state, old, dict(old), 10.25) is None
    urgent = {**new, "conditions": [{"type": "Ready", "status": "False"}]}
    assert status_delay_s(state, old, urgent, 10.25) is None
