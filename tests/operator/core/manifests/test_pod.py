from __future__ import annotations

import base64
import json
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest

from avatar_contracts import upstream_fields
from avatar_contracts.fields import Fault, Fields
from avatar_contracts.labels import LogFormat
from avatar_contracts.tokens import control_token
from avatar_contracts.upstream import endpoints
from avatar_operator.core.gpus import inventory, pools
from avatar_operator.core.keys import KeyRing
from avatar_operator.core.manifests.objects import (
    adoption_patch,
    control_secret,
    event_body,
    pdb,
    pod_selector,
)
from avatar_operator.core.manifests.pod import PodSettings, hash_spec, runtime_pod
from avatar_operator.core.resources.pod import parse_runtime_pod
from avatar_operator.core.resources.pod_defaults import PodDefaults
from avatar_operator.core.resources.pod_security import PodSecurity
from avatar_operator.core.resources.service import parse_service
from avatar_operator.names import TOKEN_FOLDER, Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.gpu_profile import GPUProfile

SETTINGS = PodSettings("runtime:1", "IfNotPresent")


def render(
    make: Make,
    settings: PodSettings = SETTINGS,
    profile: GPUProfile | None = None,
    generation: str = "",
    **spec: Any,
) -> Any:
    service = make.service(**spec)
    profiles = (profile or make.profile(),)
    stock = inventory.count_free([make.node()], [], profiles, service.placement)
    (pool,) = pools.rank(service, profiles, stock, 0.9)
    secret = "concierge-control"
    return runtime_pod(service, "concierge-0", pool, settings, secret, generation=generation)


def test_the_pod_says_what_its_class_costs(make: Make) -> None:
    name = "avatar.musetalk.io/cost-per-hour"
    priced = replace(make.profile(), cost_per_hour=Decimal("0.440"))
    assert render(make, profile=priced)["metadata"]["annotations"][name] == "0.440"
    tiny = replace(priced, cost_per_hour=Decimal("1E-9"))
    assert render(make, profile=tiny)["metadata"]["annotations"][name] == "0.000000001"
    free = replace(priced, cost_per_hour=None)
    assert name not in render(make, profile=free)["metadata"]["annotations"]


def test_the_pod_is_what_runtime_and_gateway_expect(make: Make) -> None:
    pod = render(make, avatars=["anna", "ben"], fps=20)
    assert pod["metadata"]["labels"] == {
        "app.kubernetes.io/name": "avatar-runtime",
        "app.kubernetes.io/instance": "concierge",
        "app.kubernetes.io/managed-by": "avatar-operator",
        "avatar.musetalk.io/service": "concierge",
        "avatar.musetalk.io/gpu-class": "rtx-4090",
        "avatar.musetalk.io/spec-hash": hash_spec(
            make.service(avatars=["anna", "ben"], fps=20), "runtime:1"
        ),
    }
    assert pod["metadata"]["annotations"]["avatar.musetalk.io/batch-size"] == "8"
    assert pod["metadata"]["annotations"]["avatar.musetalk.io/sessions-per-pod"] == "3"
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == ("s1", True)
    (container,) = pod["spec"]["containers"]
    assert container["name"] == "runtime"
    assert container["command"] == ["avatar-runtime", "serve"]
    assert " ".join(container["args"]) == (
        "--model /opt/avatar/models/demo --avatars /opt/avatar/avatars --batch-size 8 "
        "--listen 0.0.0.0:8080 --admin 0.0.0.0:9090"
    )
    values = {each["name"]: each.get("value") for each in container["env"]}
    profile = json.loads(values.pop("AVATAR_GPU_PROFILE"))
    assert profile["curve"]["frameBatchMs"][0] == [1, 22.2]
    assert (profile["gpuClass"], profile["memoryMiB"]) == ("rtx-4090", 24564)
    assert values == {
        "AVATAR_SERVICE": "acme/concierge",
        "AVATAR_GPU_CLASS": "rtx-4090",
        "AVATAR_MODEL_VERSION": "v15",
        "AVATAR_CAPACITY": "3",
        "AVATAR_AVATARS": "anna,ben",
        "AVATAR_FPS": "20",
        "AVATAR_MAX_DURATION_S": "7200",
        "AVATAR_IDLE_TIMEOUT_S": "300",
        "AVATAR_DRAIN_TIMEOUT_S": "3600",
        "AVATAR_LOG_FORMAT": "json",
        "AVATAR_POD": None,
        "AVATAR_POD_IP": None,
        "AVATAR_TOKEN_FOLDER": TOKEN_FOLDER,
    }


def test_a_pod_detects_turns_unless_the_service_says_none(make: Make) -> None:
    found = []
    for sessions in ({}, {"turnDetection": "server_vad"}, {"turnDetection": "none"}):
        (container,) = render(make, sessions=sessions)["spec"]["containers"]
        values = {each["name"]: each.get("value") for each in container["env"]}
        found.append(values.get("AVATAR_TURN_DETECTION"))
    assert found == [None, None, "none"]


SPEECH: Final[Body] = {
    "mode": "speech",
    "speech": {
        "url": "https://speech.example/v1/audio/speech",
        "voice": "$(HOME)",
        "apiKeySecretRef": {"name": "keys", "key": "speech"},
    },
    "chat": {
        "url": "https://chat.example/v1/chat/completions",
        "apiKeySecretRef": {"name": "keys", "key": "chat"},
    },
    "transcription": {"url": "http://hear.example/v1/audio/transcriptions"},
}


def test_a_pod_of_mode_drive_has_nothing_of_an_upstream(make: Make) -> None:
    text = json.dumps(render(make, upstream={"mode": "drive"}))
    assert "UPSTREAM" not in text
    assert "avatar-upstream-keys" not in text


def test_a_pod_gets_the_endpoints_without_their_keys(make: Make) -> None:
    spec = render(make, upstream=SPEECH)["spec"]
    (container,) = spec["containers"]
    variables = {each["name"]: each for each in container["env"]}
    refs = {
        "AVATAR_SPEECH_KEY": {"name": "keys", "key": "speech"},
        "AVATAR_CHAT_KEY": {"name": "keys", "key": "chat"},
    }
    for name, ref in refs.items():
        assert variables[name]["valueFrom"] == {"secretKeyRef": ref}
    assert "AVATAR_TRANSCRIPTION_KEY" not in variables
    value = variables["AVATAR_UPSTREAM"]["value"]
    assert "$$(HOME)" in value  # the kubelet makes $(HOME) of it
    document = json.loads(value.replace("$$(", "$("))
    assert document["speech"]["apiKeyEnv"] == "AVATAR_SPEECH_KEY"
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "avatar-upstream-keys")
    (volume,) = (v for v in spec["volumes"] if v["name"] == "avatar-upstream-keys")
    paths = {
        f"{mount['mountPath']}/{item['path']}": (source["secret"]["name"], item["key"])
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }
    assert paths == {
        document["speech"]["apiKeyFile"]: ("keys", "speech"),
        document["chat"]["apiKeyFile"]: ("keys", "chat"),
    }


def test_the_runtime_reads_the_upstream_that_the_operator_renders(make: Make) -> None:
    service = make.service(upstream=SPEECH)
    (container,) = render(make, upstream=SPEECH)["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    document = json.loads(variables["AVATAR_UPSTREAM"].replace("$$(", "$("))
    faults: list[Fault] = []
    read = upstream_fields.parse(Fields(document, "upstream", faults), in_pod=True)
    assert faults == []
    legs = endpoints(service.upstream)
    assert endpoints(read).keys() == legs.keys()
    for leg, endpoint in endpoints(read).items():
        assert replace(endpoint, key=None) == replace(legs[leg], key=None)


def test_a_live_session_outlasts_a_deletion_and_a_lost_kubelet(make: Make) -> None:
    spec = render(make, sessions={"drainTimeoutSeconds": 100})["spec"]
    assert spec["terminationGracePeriodSeconds"] == 130
    stop = spec["containers"][0]["lifecycle"]["preStop"]
    assert stop["exec"]["command"] == ["avatar-runtime", "drain", "--wait"]
    lost = {each["key"]: each for each in spec["tolerations"]}
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        assert lost[key]["tolerationSeconds"] == 100
    assert lost["nvidia.com/gpu"] == {"key": "nvidia.com/gpu", "operator": "Exists"}


def test_pods_spread_over_zones_and_nodes_as_far_as_gpus_are_there(make: Make) -> None:
    constraints = render(make)["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in constraints] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    for each in constraints:
        assert (each["maxSkew"], each["whenUnsatisfiable"]) == (1, "ScheduleAnyway")
        assert each["labelSelector"] == {"matchLabels": {"avatar.musetalk.io/service": "concierge"}}


def test_a_pod_asks_for_the_resource_that_its_class_is_offered_by(make: Make) -> None:
    slices = "nvidia.com/mig-3g.40gb"
    labels = {f"{slices}.product": "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", f"{slices}.memory": "40192"}
    match = {"products": ["*-MIG-3g.40gb"], "memoryMiB": {"min": 38000, "max": 41000}}
    profiles = (make.profile("slice", match=match),)
    service = make.service()
    node = make.node(labels=labels, gpus=0, others=((slices, 2),))
    stock = inventory.count_free([node], [], profiles, service.placement)
    (pool,) = pools.rank(service, profiles, stock, 0.9)
    body: Any = runtime_pod(service, "concierge-0", pool, SETTINGS, "concierge-control")
    (container,) = body["spec"]["containers"]
    for part in ("requests", "limits"):
        asked = container["resources"][part]
        assert {name: asked[name] for name in asked if "nvidia" in name} == {slices: "1"}
    affinity = body["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {"key": f"{slices}.replicas", "operator": "DoesNotExist"} in term["matchExpressions"]


def test_the_pod_is_pinned_to_the_labels_of_its_class(make: Make) -> None:
    spec = render(make, placement={"nodeSelector": {"pool": "x"}, "gpuClasses": []})["spec"]
    assert spec["nodeSelector"] == {"pool": "x"}
    spec = render(make)["spec"]
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert {each["key"]: each.get("values") for each in term["matchExpressions"]} == {
        "nvidia.com/gpu.product": ["NVIDIA-GeForce-RTX-4090"],
        "nvidia.com/gpu.memory": ["24564"],
        "nvidia.com/gpu.sharing-strategy": None,
        "nvidia.com/gpu.replicas": None,
    }
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("source", "folder", "volume"),
    [
        pytest.param({"image": {"path": "/m"}}, "/m", None, id="image"),
        pytest.param(
            {"persistentVolumeClaim": {"claimName": "c", "path": "a/b"}},
            "/models/a/b",
            {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
            id="claim",
        ),
        pytest.param(
            {"persistentVolumeClaim": {"claimName": "c"}},
            "/models",
            {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
            id="root of a claim",
        ),
        pytest.param(
            {"hostPath": {"path": "/srv"}},
            "/models",
            {"hostPath": {"path": "/srv", "type": "Directory"}},
            id="host",
        ),
    ],
)
def test_models_come_from_their_source(
    make: Make, source: dict[str, Any], folder: str, volume: dict[str, Any] | None
) -> None:
    spec = render(make, model={"source": source})["spec"]
    args = spec["containers"][0]["args"]
    assert args[args.index("--model") + 1] == folder
    volumes = {each.pop("name"): each for each in spec["volumes"]}
    assert volumes.get("models") == volume
    mounts = {each["name"]: each for each in spec["containers"][0]["volumeMounts"]}
    assert ("models" in mounts) == (volume is not None)


def test_the_template_adds_and_the_operator_decides(make: Make) -> None:
    pod = render(
        make,
        PodSettings("runtime:1", "Always", ("pull",)),
        template={
            "image": "mine:2",
            "labels": {"team": "a"},
            "annotations": {"note": "b"},
            "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi"}},
            "env": [{"name": "EXTRA", "value": "1"}],
            "volumes": [{"name": "extra", "emptyDir": {}}],
            "volumeMounts": [{"name": "extra", "mountPath": "/extra"}],
            "serviceAccountName": "sa",
            "priorityClassName": "high",
            "runtimeClassName": "nvidia",
        },
    )
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["annotations"]["note"] == "b"
    assert (container["image"], container["imagePullPolicy"]) == ("mine:2", "Always")
    assert container["resources"] == {
        "requests": {"cpu": "2", "nvidia.com/gpu": "1"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
    }
    assert container["env"][-1] == {"name": "EXTRA", "value": "1"}
    assert spec["volumes"][-1]["name"] == container["volumeMounts"][-1]["name"] == "extra"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("sa", "high")
    assert spec["runtimeClassName"] == "nvidia"


def test_a_pod_has_requests_without_any_setting(make: Make) -> None:
    """A pod without requests has the QoS class BestEffort: it is the first that a node evicts."""
    (container,) = render(make)["spec"]["containers"]
    sessions = 2
    assert container["resources"] == {
        "requests": {
            "cpu": f"{1000 + 100 * sessions}m",
            "memory": f"{4096 + 64 * sessions}Mi",
            "nvidia.com/gpu": "1",
        },
        "limits": {"memory": f"{16384 + 256 * sessions}Mi", "nvidia.com/gpu": "1"},
    }


def test_the_profile_sets_resources_that_the_service_does_not(make: Make) -> None:
    profile = make.profile(
        resources={"requests": {"cpu": "3", "memory": "9Gi"}, "limits": {"memory": "10Gi"}}
    )
    template = {"resources": {"limits": {"memory": "5Gi"}}}
    (container,) = render(make, profile=profile, template=template)["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "3", "nvidia.com/gpu": "1"},
        "limits": {"memory": "5Gi", "nvidia.com/gpu": "1"},
    }


def test_the_chart_sets_the_security_contexts(make: Make) -> None:
    service = PodDefaults(security=PodSecurity({"runAsNonRoot": True}, {})).merged_into(
        make.service()
    )
    stock = inventory.count_free([make.node()], [], (make.profile(),), service.placement)
    (pool,) = pools.rank(service, (make.profile(),), stock, 0.9)
    spec: Any = runtime_pod(service, "concierge-0", pool, SETTINGS, "concierge-control")["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True}
    assert spec["containers"][0]["securityContext"] == {}
    assert hash_spec(service, "i") != hash_spec(make.service(), "i")


def test_a_pod_runs_restricted(make: Make) -> None:
    spec = render(make)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    context = spec["containers"][0]["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_hash_of_mode_drive_is_that_of_earlier_releases(make: Make) -> None:
    service = parse_service(
        {
            "metadata": {"name": "a", "namespace": "b"},
            "spec": {"upstream": {"mode": "drive"}},
        }
    )
    assert hash_spec(service, "i") == "9bc6dca48e"
    assert hash_spec(make.service(upstream=SPEECH), "i") != hash_spec(make.service(), "i")


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        pytest.param({"replicas": 5}, False, id="replicas"),
        pytest.param({"placement": {"strategy": "fastest"}}, False, id="placement"),
        pytest.param({"tenants": ["a"]}, False, id="tenants"),
        pytest.param({"objective": "balanced"}, False, id="the default said aloud"),
        pytest.param({"objective": "latency"}, True, id="objective"),
        pytest.param({"batchSize": 4}, True, id="batch size"),
        pytest.param({"avatars": ["a"]}, True, id="avatars"),
        pytest.param({"template": {"env": [{"name": "A"}]}}, True, id="template"),
        pytest.param({"sessions": {"maxDurationSeconds": 9}}, True, id="limits"),
    ],
)
def test_the_hash_changes_with_what_makes_a_pod(
    make: Make, changed: dict[str, Any], differs: bool
) -> None:
    plain = hash_spec(make.service(), "i")
    assert (hash_spec(make.service(**changed), "i") != plain) is differs


def test_the_image_of_the_chart_counts_unless_the_service_names_one(make: Make) -> None:
    assert hash_spec(make.service(), "a") != hash_spec(make.service(), "b")
    own = make.service(template={"image": "mine"})
    assert hash_spec(own, "a") == hash_spec(own, "b")


def test_the_secret_belongs_to_the_service(make: Make) -> None:
    secret: Any = control_secret(make.service(), KeyRing("abc"), "concierge-control")
    assert (secret["metadata"]["name"], secret["metadata"]["namespace"]) == (
        "concierge-control",
        "acme",
    )
    token = control_token("abc", "acme/concierge")
    assert base64.b64decode(secret["data"]["token"]).decode() == token
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "s1"


def test_a_pod_reads_its_tokens_from_the_secret_of_its_service(make: Make) -> None:
    secret: Any = control_secret(make.service(), KeyRing("abc"), "concierge-control")
    spec = render(make)["spec"]
    (container,) = spec["containers"]
    (volume,) = (each for each in spec["volumes"] if "secret" in each)
    assert volume["secret"] == {"secretName": "concierge-control"}
    assert secret["metadata"]["name"] == "concierge-control"
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == volume["name"])
    # Only a whole mounted folder is updated by the kubelet.
    assert mount == {"name": volume["name"], "mountPath": TOKEN_FOLDER, "readOnly": True}
    values = {each["name"]: each.get("value") for each in container["env"]}
    assert values["AVATAR_TOKEN_FOLDER"] == TOKEN_FOLDER
    sources = {each["name"]: each.get("valueFrom") for each in container["env"]}
    assert not any("secretKeyRef" in str(source) for source in sources.values())
    assert set(secret["data"]) == {"token", "state-token", "session-token"}
    assert sources["AVATAR_POD"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert sources["AVATAR_POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}


def test_an_event_is_about_its_service_and_not_too_long(make: Make) -> None:
    event: Any = event_body(
        make.service(), Reason.SERVING, "x" * 5000, warning=True, at="2026-01-01T00:00:00Z"
    )
    assert event["involvedObject"]["uid"] == "s1"
    assert (event["type"], event["reason"]) == ("Warning", "Serving")
    assert len(event["message"]) == 1024


def test_another_master_key_replaces_the_pods_and_is_named_on_them(make: Make) -> None:
    service = make.service()
    assert hash_spec(service, "i", "aaa") != hash_spec(service, "i", "bbb")
    body = render(make, generation="aaa")
    labels = body["metadata"]["labels"]
    assert labels["avatar.musetalk.io/key-generation"] == "aaa"
    assert labels["avatar.musetalk.io/spec-hash"] == hash_spec(service, "runtime:1", "aaa")
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert pod.key_generation == "aaa"


def test_the_selector_finds_the_pods(make: Make) -> None:
    assert pod_selector(make.service()) == "avatar.musetalk.io/service=concierge"


def test_metrics_of_pods_are_open_where_the_chart_opens_them(make: Make) -> None:
    opened = PodSettings("runtime:1", "IfNotPresent", metrics_open=True)
    for settings, said in ((SETTINGS, []), (opened, ["true"])):
        (container,) = render(make, settings)["spec"]["containers"]
        reported = [e["value"] for e in container["env"] if e["name"] == "AVATAR_METRICS_OPEN"]
        assert reported == said


def test_the_hash_of_a_spec_stays(make: Make) -> None:
    """Another value replaces all pods of all services at the next upgrade of the operator."""
    assert hash_spec(make.service(), "runtime:1") == "dc048a3420"


@pytest.mark.parametrize("log_format", LogFormat)
def test_pods_log_in_the_format_of_the_operator(make: Make, log_format: LogFormat) -> None:
    settings = PodSettings("runtime:1", "IfNotPresent", log_format=log_format)
    body = render(make, settings)
    (container,) = body["spec"]["containers"]
    formats = [e["value"] for e in container["env"] if e["name"] == "AVATAR_LOG_FORMAT"]
    assert formats == [log_format.value]
    # Pods that run keep their format: it is no reason to replace them.
    hashes = {
        render(make, each)["metadata"]["labels"]["avatar.musetalk.io/spec-hash"]
        for each in (settings, SETTINGS)
    }
    assert len(hashes) == 1


def test_the_template_of_a_service_may_set_the_log_format(make: Make) -> None:
    mine = [{"name": "AVATAR_LOG_FORMAT", "value": "text"}, {"name": "MINE", "value": "1"}]
    (container,) = render(make, template={"env": mine})["spec"]["containers"]
    set_twice = [e["name"] for e in container["env"]].count("AVATAR_LOG_FORMAT") > 1
    assert not set_twice
    assert container["env"][-2:] == mine


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, {}),
        ({"decoder": "taesd"}, {"AVATAR_DECODER": "taesd"}),
        ({"precision": "bf16"}, {"AVATAR_PRECISION": "bf16"}),
    ],
    ids=["defaults", "decoder", "precision"],
)
def test_the_model_variant_reaches_the_runtime(
    make: Make, chosen: dict[str, str], said: dict[str, str]
) -> None:
    variant = {"version": "v15", "decoder": "sd-vae", "precision": "fp16", **chosen}
    name = "/".join(variant.values())
    curve = make.profile_body()["spec"]["curves"][0]
    profile = make.profile(curves=[{**curve, "model": name}])
    (container,) = render(make, profile=profile, model=chosen)["spec"]["containers"]
    reported = {e["name"]: e.get("value") for e in container["env"]}
    assert {
        n: v for n, v in reported.items() if n in ("AVATAR_DECODER", "AVATAR_PRECISION")
    } == said


def test_a_pod_that_is_taken_over_gets_the_labels_and_the_owner_of_its_new_service(
    make: Make,
) -> None:
    assert adoption_patch(make.service(), "first") == {
        "labels": {
            "avatar.musetalk.io/service": "concierge",
            "app.kubernetes.io/instance": "concierge",
            "avatar.musetalk.io/made-for": "first",
            "avatar.musetalk.io/reserve": None,
        },
        "ownerReferences": [
            {
                "apiVersion": "avatar.musetalk.io/v1alpha1",
                "kind": "AvatarService",
                "name": "concierge",
                "uid": "s1",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def test_the_probes_allow_a_slow_start_and_end_a_process_that_hangs(make: Make) -> None:
    (container,) = render(make)["spec"]["containers"]
    ready = {"path": "/readyz", "port": "sessions"}
    assert container["startupProbe"] == {
        "httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 1200
    }  # fmt: skip
    assert container["readinessProbe"] == {
        "httpGet": ready, "periodSeconds": 2, "timeoutSeconds": 2
    }  # fmt: skip
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/healthz", "port": "sessions"},
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": 6,
    }


def test_a_budget_keeps_more_pods_than_can_exist(make: Make) -> None:
    spec: Any = pdb(make.service(), "concierge-live")["spec"]
    assert spec["minAvailable"] == 1_000_000
