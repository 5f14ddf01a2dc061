"""The API server refuses wrong specs by itself, and says what is wrong in words."""

from __future__ import annotations

import json
import random
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
import pytest_asyncio
import yaml

from avatar_operator.core.resources.avatar import parse_avatar
from avatar_operator.core.resources.service import parse_service
from avatar_operator.errors import InvalidResource
from localcluster import errors
from localcluster.controlplane import certificates
from localcluster.faults import policy_fuzz

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.e2e

ROOT: Final = Path(__file__).parents[2]
NAMESPACE: Final = "wrong-specs"
GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
SERVICES: Final = f"{GROUP}/namespaces/{NAMESPACE}/avatarservices"
PROFILES: Final = f"{GROUP}/gpuprofiles"
AVATARS: Final = f"{GROUP}/namespaces/{NAMESPACE}/avatars"
TENANTS: Final = f"{GROUP}/avatartenants"
DRY_RUN: Final = {"dryRun": "All", "fieldValidation": "Strict"}

Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wrong:
    """A spec, and what the refusal must name: the field and the rule."""

    spec: Spec
    field: str
    rule: str


ONE_SOURCE = (
    "exactly one of persistentVolumeClaim, hostPath, image, imageVolume and download must be set"
)
DOWNLOAD = {"url": "https://models.example.com/v15/manifest.json", "sha256": "a" * 64}


def source(**kind: object) -> Spec:
    return {"model": {"source": kind}}


def template(**fields: object) -> Spec:
    return {"template": fields}


def tolerating(**toleration: object) -> Spec:
    return {"placement": {"tolerations": [toleration]}}


def scheduled(**changes: object) -> Spec:
    office: Spec = {"name": "office", "start": "0 8 * * mon-fri", "end": "0 18 * * mon-fri"}
    fields = {**office, "timeZone": "Europe/Berlin", "minReplicas": 1, **changes}
    schedule = {name: value for name, value in fields.items() if value is not None}
    return {"autoscaling": {"maxReplicas": 2, "schedules": [schedule]}}


ONE_TO_TWO: Final = {"minReplicas": 1, "maxReplicas": 2}
BRIDGE: Final = {
    "mode": "bridge",
    "url": "wss://speech.example/v1/realtime",
    "model": "gpt-realtime",
    "apiKeySecretRef": {"name": "upstream", "key": "api-key"},
}
SPEECH: Final[dict[str, object]] = {
    "mode": "speech",
    "speech": {"url": "https://speech.example/v1/audio/speech", "model": "tts", "voice": "alloy"},
}


def speaking(**changes: object) -> Spec:
    speech = {"url": "https://speech.example/v1/audio/speech", "voice": "alloy", **changes}
    return {"upstream": {"mode": "speech", "speech": speech}}


SERVICE_FAULTS: Final[dict[str, Wrong]] = {
    "replicas-and-autoscaling": Wrong(
        {"replicas": 2, "autoscaling": ONE_TO_TWO},
        "spec",
        "spec.replicas must not be set together with spec.autoscaling",
    ),
    "batch-size-and-objective": Wrong(
        {"batchSize": 4, "objective": "latency"},
        "spec",
        "spec.batchSize must not be set together with spec.objective",
    ),
    "min-above-max": Wrong(
        {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}},
        "spec.autoscaling.minReplicas",
        "minReplicas must be less than or equal to maxReplicas",
    ),
    "zero-with-a-minimum": Wrong(
        {"autoscaling": {**ONE_TO_TWO, "scaleToZeroAfterSeconds": 60}},
        "spec.autoscaling.scaleToZeroAfterSeconds",
        "scaleToZeroAfterSeconds must not be set unless minReplicas is 0",
    ),
    "no-maximum": Wrong(
        {"autoscaling": {"minReplicas": 1}}, "spec.autoscaling.maxReplicas", "Required value"
    ),
    "maximum-of-zero": Wrong(
        {"autoscaling": {"minReplicas": 0, "maxReplicas": 0}},
        "spec.autoscaling.maxReplicas",
        "greater than or equal to 1",
    ),
    "negative-replicas": Wrong({"replicas": -1}, "spec.replicas", "greater than or equal to 0"),
    "too-many-replicas": Wrong({"replicas": 1001}, "spec.replicas", "less than or equal to 1000"),
    "replicas-in-words": Wrong({"replicas": "two"}, "spec.replicas", "must be of type integer"),
    "negative-headroom": Wrong(
        {"autoscaling": {"maxReplicas": 2, "freeSessions": {"min": -1}}},
        "spec.autoscaling.freeSessions.min",
        "greater than or equal to 0",
    ),
    "headroom-in-words": Wrong(
        {"autoscaling": {"maxReplicas": 2, "freeSessions": {"percent": "20%"}}},
        "spec.autoscaling.freeSessions.percent",
        "must be of type integer",
    ),
    "hold-over-a-day": Wrong(
        {"autoscaling": {"maxReplicas": 2, "scaleDownAfterSeconds": 86401}},
        "spec.autoscaling.scaleDownAfterSeconds",
        "less than or equal to 86400",
    ),
    "negative-reserve": Wrong(
        {"autoscaling": {"maxReplicas": 2, "reserve": -1}},
        "spec.autoscaling.reserve",
        "greater than or equal to 0",
    ),
    "shared-reserve-in-words": Wrong(
        {"autoscaling": {"maxReplicas": 2, "sharedReserve": "yes"}},
        "spec.autoscaling.sharedReserve",
        "must be of type boolean",
    ),
    "reserve-beside-scale-to-zero": Wrong(
        {
            "autoscaling": {
                "minReplicas": 0,
                "maxReplicas": 2,
                "reserve": 1,
                "scaleToZeroAfterSeconds": 60,
            }
        },
        "spec.autoscaling.reserve",
        "reserve must be 0 if scaleToZeroAfterSeconds is set",
    ),
    "cost-as-a-number": Wrong(
        {"autoscaling": {"maxReplicas": 2, "maxCostPerHour": 12.5}},
        "spec.autoscaling.maxCostPerHour",
        "must be of type string",
    ),
    "cost-of-zero": Wrong(
        {"autoscaling": {"maxReplicas": 2, "maxCostPerHour": "0.00"}},
        "spec.autoscaling.maxCostPerHour",
        "maxCostPerHour must be a positive decimal number in quotes",
    ),
    "rate-of-nothing": Wrong(
        {"autoscaling": {"maxReplicas": 2, "rate": {"periodSeconds": 60}}},
        "spec.autoscaling.rate",
        "at least one of upPods and downPods must be set",
    ),
    "rate-of-zero": Wrong(
        {"autoscaling": {"maxReplicas": 2, "rate": {"upPods": 0}}},
        "spec.autoscaling.rate.upPods",
        "greater than or equal to 1",
    ),
    "rate-over-an-hour": Wrong(
        {"autoscaling": {"maxReplicas": 2, "rate": {"upPods": 1, "periodSeconds": 3601}}},
        "spec.autoscaling.rate.periodSeconds",
        "less than or equal to 3600",
    ),
    "schedule-in-four-fields": Wrong(
        scheduled(start="0 8 * *"), "spec.autoscaling.schedules[0].start", "five cron fields"
    ),
    "schedule-of-minute-60": Wrong(
        scheduled(end="60 18 * * *"), "spec.autoscaling.schedules[0].end", "five cron fields"
    ),
    "schedule-that-never-ends": Wrong(
        scheduled(end="0 8 * * mon-fri"),
        "spec.autoscaling.schedules[0]",
        "start and end must be different",
    ),
    "schedule-without-end": Wrong(
        scheduled(end=None), "spec.autoscaling.schedules[0].end", "Required value"
    ),
    "schedule-of-no-zone": Wrong(
        scheduled(timeZone="Europe/Atlantis"),
        "spec.autoscaling.schedules[0].timeZone",
        "unknown time zone",
    ),
    "schedule-of-nothing": Wrong(
        scheduled(minReplicas=None),
        "spec.autoscaling.schedules[0]",
        "at least one of minReplicas, freeSessions and reserve must be set",
    ),
    "schedule-above-the-maximum": Wrong(
        scheduled(minReplicas=3),
        "spec.autoscaling.schedules",
        "minReplicas of a schedule must be less than or equal to maxReplicas",
    ),
    "schedule-with-a-wrong-name": Wrong(
        scheduled(name="Office"),
        "spec.autoscaling.schedules[0].name",
        "a schedule name must consist of lowercase letters, digits and '-'",
    ),
    "two-schedules-of-a-name": Wrong(
        {
            "autoscaling": {
                "maxReplicas": 2,
                "schedules": 2 * scheduled()["autoscaling"]["schedules"],
            }
        },
        "spec.autoscaling.schedules[1]",
        "Duplicate value",
    ),
    "batch-of-zero": Wrong({"batchSize": 0}, "spec.batchSize", "greater than or equal to 1"),
    "batch-over-64": Wrong({"batchSize": 65}, "spec.batchSize", "less than or equal to 64"),
    "unknown-objective": Wrong(
        {"objective": "fast"}, "spec.objective", '"latency", "balanced", "throughput"'
    ),
    "unknown-version": Wrong(
        {"model": {"version": "v2"}}, "spec.model.version", 'supported values: "v1", "v15"'
    ),
    "unknown-decoder": Wrong(
        {"model": {"decoder": "vae"}}, "spec.model.decoder", '"sd-vae", "taesd"'
    ),
    "unknown-precision": Wrong(
        {"model": {"precision": "int8"}}, "spec.model.precision", '"fp16", "bf16", "fp32"'
    ),
    "no-source": Wrong(
        source(),
        "spec.model.source",
        ONE_SOURCE,
    ),
    "two-sources": Wrong(
        source(image={"path": "/m"}, hostPath={"path": "/m"}),
        "spec.model.source",
        ONE_SOURCE,
    ),
    "two-avatar-sources": Wrong(
        {"avatarSource": {"image": {"path": "/a"}, "hostPath": {"path": "/a"}}},
        "spec.avatarSource",
        ONE_SOURCE,
    ),
    "download-beside-a-claim": Wrong(
        source(persistentVolumeClaim={"claimName": "c"}, download=DOWNLOAD),
        "spec.model.source",
        ONE_SOURCE,
    ),
    "download-without-a-hash": Wrong(
        source(download={"url": DOWNLOAD["url"]}),
        "spec.model.source.download.sha256",
        "Required value",
    ),
    "download-with-a-query": Wrong(
        source(download={**DOWNLOAD, "url": "https://h/manifest.json?key=1"}),
        "spec.model.source.download.url",
        "without a user, a query and a fragment",
    ),
    "download-by-ftp": Wrong(
        {"avatarSource": {"download": {**DOWNLOAD, "url": "ftp://h/manifest.json"}}},
        "spec.avatarSource.download.url",
        "url must be an http or https URL of a manifest",
    ),
    "download-with-a-wrong-hash": Wrong(
        source(download={**DOWNLOAD, "sha256": "A" * 64}),
        "spec.model.source.download.sha256",
        "sha256 must be 64 lowercase hexadecimal digits",
    ),
    "image-volume-without-reference": Wrong(
        source(imageVolume={"path": "m"}),
        "spec.model.source.imageVolume.reference",
        "Required value",
    ),
    "image-volume-out-of-the-image": Wrong(
        source(imageVolume={"reference": "r", "path": "../etc"}),
        "spec.model.source.imageVolume.path",
        "path must not contain '..', because it must stay inside the volume",
    ),
    "cache-in-a-template": Wrong(
        {"template": {"volumeMounts": [{"name": "model-cache", "mountPath": "/c"}]}},
        "spec.template.volumeMounts[0].name",
        "the volume model-cache is shared with other services",
    ),
    "claim-without-name": Wrong(
        source(persistentVolumeClaim={"path": "models"}),
        "spec.model.source.persistentVolumeClaim.claimName",
        "Required value",
    ),
    "path-out-of-the-claim": Wrong(
        source(persistentVolumeClaim={"claimName": "c", "path": "../other"}),
        "spec.model.source.persistentVolumeClaim.path",
        "path must not contain '..', because it must stay inside the volume",
    ),
    "relative-host-path": Wrong(
        source(hostPath={"path": "models"}),
        "spec.model.source.hostPath.path",
        "path must be absolute; it must start with '/'",
    ),
    "relative-image-path": Wrong(
        {"avatarSource": {"image": {"path": "avatars"}}},
        "spec.avatarSource.image.path",
        "path must be absolute; it must start with '/'",
    ),
    "host-path-with-dots": Wrong(
        source(hostPath={"path": "/data/../etc"}),
        "spec.model.source.hostPath.path",
        "must not contain '..'",
    ),
    "avatar-with-a-slash": Wrong(
        {"avatars": ["anna", "a/b"]},
        "spec.avatars[1]",
        "an avatar name must consist of lowercase letters, digits and '-'",
    ),
    "avatar-with-a-comma": Wrong(
        {"avatars": ["anna,ben"]},
        "spec.avatars[0]",
        "an avatar name must consist of lowercase letters, digits and '-'",
    ),
    "avatar-twice": Wrong(
        {"avatars": ["anna", "anna"]}, "spec.avatars", "avatars must not contain duplicate names"
    ),
    "too-many-avatars": Wrong(
        {"avatars": [f"a{n}" for n in range(65)]}, "spec.avatars", "at most 64 items"
    ),
    "odd-frame-rate": Wrong({"fps": 30}, "spec.fps", 'supported values: "10", "16", "20", "25"'),
    "frame-rate-in-words": Wrong({"fps": "25"}, "spec.fps", "must be of type integer"),
    "class-twice": Wrong(
        {"placement": {"gpuClasses": ["l4", "l4"]}},
        "spec.placement.gpuClasses",
        "gpuClasses must not contain duplicate names",
    ),
    "product-as-class": Wrong(
        {"placement": {"gpuClasses": ["NVIDIA-L4"]}},
        "spec.placement.gpuClasses[0]",
        "a GPU class must be the name of a GPUProfile, for example rtx-4090",
    ),
    "unknown-when-full": Wrong(
        {"placement": {"whenFull": "queue"}},
        "spec.placement.whenFull",
        'supported values: "fallThrough", "wait"',
    ),
    "unknown-strategy": Wrong(
        {"placement": {"strategy": "random"}},
        "spec.placement.strategy",
        '"preferred", "cheapest", "fastest"',
    ),
    "selector-of-a-boolean": Wrong(
        {"placement": {"nodeSelector": {"gpu": True}}},
        "spec.placement.nodeSelector.gpu",
        "must be of type string",
    ),
    "toleration-of-any-value": Wrong(
        tolerating(key="a", operator="Exists", value="b"),
        "spec.placement.tolerations[0]",
        "value must be empty if operator is Exists",
    ),
    "toleration-of-nothing": Wrong(
        tolerating(value="b"),
        "spec.placement.tolerations[0]",
        "operator must be Exists if key is empty",
    ),
    "patience-without-execution": Wrong(
        tolerating(key="a", tolerationSeconds=5),
        "spec.placement.tolerations[0]",
        "effect must be NoExecute if tolerationSeconds is set",
    ),
    "negative-drain": Wrong(
        {"sessions": {"drainTimeoutSeconds": -1}},
        "spec.sessions.drainTimeoutSeconds",
        "greater than or equal to 0",
    ),
    "no-duration": Wrong(
        {"sessions": {"maxDurationSeconds": 0}},
        "spec.sessions.maxDurationSeconds",
        "greater than or equal to 1",
    ),
    "duration-in-words": Wrong(
        {"sessions": {"idleTimeoutSeconds": "5m"}},
        "spec.sessions.idleTimeoutSeconds",
        "must be of type integer",
    ),
    "bridge-to-nowhere": Wrong(
        {"upstream": {"mode": "bridge"}}, "spec.upstream", "url must be set in mode bridge"
    ),
    "drive-with-an-address": Wrong(
        {"upstream": {"url": "wss://speech.example"}},
        "spec.upstream",
        "timeoutSeconds must be set in mode bridge only",
    ),
    "speech-in-a-bridge": Wrong(
        {"upstream": {**BRIDGE, "speech": SPEECH["speech"]}},
        "spec.upstream",
        "speech, chat and transcription must be set in mode speech only",
    ),
    "speech-without-an-endpoint": Wrong(
        {"upstream": {"mode": "speech"}}, "spec.upstream", "speech must be set in mode speech"
    ),
    "speech-without-a-voice": Wrong(
        {"upstream": {"mode": "speech", "speech": {"url": "https://speech.example"}}},
        "spec.upstream.speech.voice",
        "Required value",
    ),
    "speech-over-a-socket": Wrong(
        speaking(url="wss://speech.example"),
        "spec.upstream.speech.url",
        "url must start with https:// or http://",
    ),
    "user-in-an-address": Wrong(
        speaking(url="https://me:secret@speech.example/v1"),
        "spec.upstream.speech.url",
        "url must have a host, a port from 1 to 65535 if it has one, and no user",
    ),
    "secret-of-another-namespace": Wrong(
        speaking(apiKeySecretRef={"name": "acme/openai", "key": "key"}),
        "spec.upstream.speech.apiKeySecretRef.name",
        "the name must consist of lowercase letters",
    ),
    "name-of-an-account": Wrong(
        {"template": {"serviceAccountName": "Runtime"}},
        "spec.template.serviceAccountName",
        "the name must consist of lowercase letters",
    ),
    "port-out-of-range": Wrong(
        speaking(url="https://speech.example:65536/v1"),
        "spec.upstream.speech.url",
        "a port from 1 to 65535",
    ),
    "port-without-a-number": Wrong(
        speaking(url="https://speech.example:http/v1"),
        "spec.upstream.speech.url",
        "a port from 1 to 65535",
    ),
    "slow-samples": Wrong(
        speaking(sampleRate=4000),
        "spec.upstream.speech.sampleRate",
        "greater than or equal to 8000",
    ),
    "unknown-format-of-speech": Wrong(
        speaking(format="mp3"), "spec.upstream.speech.format", "Unsupported value"
    ),
    "endless-patience": Wrong(
        speaking(timeoutSeconds=301),
        "spec.upstream.speech.timeoutSeconds",
        "less than or equal to 300",
    ),
    "key-in-a-header": Wrong(
        speaking(headers={"Api-Key": "secret"}),
        "spec.upstream.speech.headers",
        "headers must not contain credentials; use apiKeySecretRef",
    ),
    "header-of-the-runtime": Wrong(
        speaking(headers={"Content-Length": "1"}),
        "spec.upstream.speech.headers",
        "must not be one that the runtime sets itself",
    ),
    "header-over-two-lines": Wrong(
        speaking(headers={"x-team": "a\nb"}),
        "spec.upstream.speech.headers[x-team]",
        "the value of a header must be printable ASCII",
    ),
    "chat-with-everything": Wrong(
        {"upstream": {**SPEECH, "chat": {"url": "https://chat.example", "maxHistory": 101}}},
        "spec.upstream.chat.maxHistory",
        "less than or equal to 100",
    ),
    "language-in-words": Wrong(
        {"upstream": {**SPEECH, "transcription": {"url": "https://a.example", "language": "EN"}}},
        "spec.upstream.transcription.language",
        "language must be an ISO 639-1 code, for example en",
    ),
    "address-of-a-page": Wrong(
        {"upstream": {**BRIDGE, "url": "https://speech.example"}},
        "spec.upstream.url",
        "url must start with wss:// or ws://",
    ),
    "too-many-tenants": Wrong(
        {"tenants": [f"t{number}" for number in range(101)]}, "spec.tenants", "at most 100 items"
    ),
    "tenant-in-capitals": Wrong(
        {"tenants": ["Acme"]},
        "spec.tenants[0]",
        "a tenant name must consist of lowercase letters, digits and '-'",
    ),
    "tenant-twice": Wrong({"tenants": ["acme", "acme"]}, "spec.tenants[1]", "Duplicate value"),
    "own-gpu": Wrong(
        template(resources={"limits": {"nvidia.com/gpu": 2}}),
        "spec.template.resources.limits",
        "nvidia.com/ resources must not be set, because the operator requests the GPU",
    ),
    "memory-in-words": Wrong(
        template(resources={"limits": {"memory": "much"}}),
        "spec.template.resources.limits.memory",
        "should match",
    ),
    "variable-of-the-operator": Wrong(
        template(env=[{"name": "AVATAR_CAPACITY", "value": "9"}]),
        "spec.template.env[0].name",
        "this variable is reserved for the operator, which sets it from the spec",
    ),
    "variable-with-a-dash": Wrong(
        template(env=[{"name": "MY-NAME", "value": "9"}]),
        "spec.template.env[0].name",
        "a variable name must consist of letters, digits and '_'",
    ),
    "variable-of-two-minds": Wrong(
        template(env=[{"name": "A", "value": "b", "valueFrom": {}}]),
        "spec.template.env[0]",
        "value must not be set together with valueFrom",
    ),
    "variable-of-a-number": Wrong(
        template(env=[{"name": "A", "value": 1}]),
        "spec.template.env[0].value",
        "must be of type string",
    ),
    "variable-twice": Wrong(
        template(env=[{"name": "A"}, {"name": "A"}]), "spec.template.env[1]", "Duplicate value"
    ),
    "volume-of-the-operator": Wrong(
        template(volumes=[{"name": "models", "emptyDir": {}}]),
        "spec.template.volumes[0].name",
        "tmp, avatar-tokens, avatar-upstream-keys and model-cache are reserved for the operator",
    ),
    "mount-of-the-operator": Wrong(
        template(volumeMounts=[{"name": "x", "mountPath": "/models"}]),
        "spec.template.volumeMounts[0].mountPath",
        "the mount paths /models, /avatars and /tmp are reserved for the operator",
    ),
    "relative-mount": Wrong(
        template(volumeMounts=[{"name": "x", "mountPath": "data"}]),
        "spec.template.volumeMounts[0].mountPath",
        "mountPath must be absolute; it must start with '/'",
    ),
    "label-of-the-operator": Wrong(
        template(labels={"avatar.musetalk.io/live": "true"}),
        "spec.template.labels",
        "keys that start with avatar.musetalk.io/ or app.kubernetes.io/ are reserved",
    ),
    "misspelt-field": Wrong({"gpuClass": "l4"}, "spec.gpuClass", "unknown field"),
}

POINTS: Final = [[1, 22.5], [4, 58.0], [8, 112]]


def profile(**changes: object) -> Spec:
    """Return the spec of a right profile, with changes of the whole or of its curve."""
    match = {"products": ["NVIDIA-X"], "memoryMiB": {"min": 1000, "max": 2000}}
    curve: Spec = {
        "model": "v15/sd-vae/fp16",
        "baseMiB": 3100,
        "perFrameMiB": 306,
        "frameBatchMs": POINTS,
        "source": "measured",
    }
    whole: Spec = {"match": match, "costPerHour": "0.44", "curves": [curve]}
    of_curve = {key: value for key, value in changes.items() if key in curve}
    curve.update(of_curve)
    whole.update({key: value for key, value in changes.items() if key not in curve})
    return whole


CURVE: Final = "spec.curves[0]"
TIMES: Final = f"{CURVE}.frameBatchMs"

PROFILE_FAULTS: Final[dict[str, Wrong]] = {
    "no-match": Wrong({"curves": []}, "spec.match", "Required value"),
    "no-product": Wrong(
        profile(match={"products": [], "memoryMiB": {"min": 1, "max": 2}}),
        "spec.match.products",
        "at least 1 item",
    ),
    "product-with-a-blank": Wrong(
        profile(match={"products": ["RTX 4090"], "memoryMiB": {"min": 1, "max": 2}}),
        "spec.match.products[0]",
        "the wildcards * and ?",
    ),
    "no-memory": Wrong(
        profile(match={"products": ["X"]}), "spec.match.memoryMiB", "Required value"
    ),
    "memory-upside-down": Wrong(
        profile(match={"products": ["X"], "memoryMiB": {"min": 3, "max": 2}}),
        "spec.match.memoryMiB.min",
        "min must be less than or equal to max",
    ),
    "memory-with-a-unit": Wrong(
        profile(match={"products": ["X"], "memoryMiB": {"min": "24Gi", "max": 2}}),
        "spec.match.memoryMiB.min",
        "must be of type integer",
    ),
    "cost-as-number": Wrong(
        profile(costPerHour=0.44), "spec.costPerHour", "must be of type string"
    ),
    "cost-of-zero": Wrong(
        profile(costPerHour="0.00"), "spec.costPerHour", "must be a positive decimal number"
    ),
    "negative-cost": Wrong(
        profile(costPerHour="-1"), "spec.costPerHour", "must be a positive decimal number"
    ),
    "cost-with-currency": Wrong(
        profile(costPerHour="$0.44"), "spec.costPerHour", "must be a positive decimal number"
    ),
    "shared-in-words": Wrong(
        profile(allowShared="yes"), "spec.allowShared", "must be of type boolean"
    ),
    "no-curve": Wrong(profile(curves=[]), "spec.curves", "at least 1 item"),
    "curve-twice": Wrong(
        profile(curves=profile()["curves"] * 2), "spec.curves[1]", "Duplicate value"
    ),
    "curve-of-a-bare-version": Wrong(
        profile(model="v15"), f"{CURVE}.model", "model must have the form VERSION/DECODER/PRECISION"
    ),
    "base-of-zero": Wrong(profile(baseMiB=0), f"{CURVE}.baseMiB", "greater than or equal to 1"),
    "negative-frame": Wrong(
        profile(perFrameMiB=-1), f"{CURVE}.perFrameMiB", "greater than or equal to 1"
    ),
    "no-times": Wrong(profile(frameBatchMs=[]), TIMES, "at least 1 item"),
    "times-without-batch": Wrong(
        profile(frameBatchMs=[[22.5], [58]]), f"{TIMES}[0]", "at least 2 items"
    ),
    "times-with-a-third": Wrong(
        profile(frameBatchMs=[[1, 22.5, 3]]), f"{TIMES}[0]", "at most 2 items"
    ),
    "falling-batches": Wrong(
        profile(frameBatchMs=[[4, 20], [1, 30]]),
        TIMES,
        "batch sizes in frameBatchMs must be in ascending order",
    ),
    "batch-twice": Wrong(
        profile(frameBatchMs=[[4, 20], [4, 30]]),
        TIMES,
        "must be in ascending order without duplicates",
    ),
    "falling-times": Wrong(
        profile(frameBatchMs=[[1, 30], [4, 20]]), TIMES, "times in frameBatchMs must not decrease"
    ),
    "half-a-frame": Wrong(
        profile(frameBatchMs=[[1.5, 30]]), TIMES, "must be a whole number from 1 to 1024"
    ),
    "no-time": Wrong(profile(frameBatchMs=[[1, 0]]), f"{TIMES}[0][1]", "greater than 0"),
    "unknown-origin": Wrong(
        profile(source="guess"), f"{CURVE}.source", '"estimate", "published", "measured"'
    ),
    "misspelt-curve": Wrong(profile(curve=[]), "spec.curve", "unknown field"),
}

FULL_ENDPOINT: Final[dict[str, object]] = {
    "url": "https://speech.example:8443/v1/audio/speech?api-version=1",
    "model": "m",
    "apiKeySecretRef": {"name": "upstream", "key": "api-key"},
    "authorization": "api-key",
    "headers": {"OpenAI-Organization": "org-1"},
    "connectTimeoutSeconds": 1,
    "timeoutSeconds": 300,
}
RIGHT_SERVICES: Final[dict[str, Spec]] = {
    "empty": {},
    "fixed-number": {"replicas": 3},
    "off": {"replicas": 0},
    "bridge": {"upstream": BRIDGE},
    "bridge-in-full": {
        "upstream": {"mode": "bridge", **FULL_ENDPOINT, "url": "ws://rt.example/v1", "beta": True}
    },
    "bridge-without-a-key": {"upstream": {"mode": "bridge", "url": "ws://127.0.0.1:8080/v1"}},
    "speech": {"upstream": SPEECH},
    "speech-in-full": {
        "upstream": {
            "mode": "speech",
            "speech": {**FULL_ENDPOINT, "voice": "alloy", "format": "wav", "sampleRate": 48000},
            "chat": {**FULL_ENDPOINT, "instructions": "Be brief.", "maxHistory": 1},
            "transcription": {**FULL_ENDPOINT, "language": "en"},
        }
    },
    "autoscaled": {"autoscaling": {"maxReplicas": 5}},
    "never-to-zero": {"autoscaling": {**ONE_TO_TWO, "scaleToZeroAfterSeconds": None}},
    "to-zero": {
        "autoscaling": {"minReplicas": 0, "maxReplicas": 2, "scaleToZeroAfterSeconds": 600}
    },
    "scheduled": scheduled(),
    "scheduled-in-all-forms": scheduled(start="*/15,7 22-4 1,31 JAN-mar/2 5-7", timeZone="UTC"),
    "scheduled-free-sessions": scheduled(minReplicas=None, freeSessions={"percent": 50}),
    "bounded": {
        "autoscaling": {
            **ONE_TO_TWO,
            "reserve": 1,
            "maxCostPerHour": "12.50",
            "rate": {"downPods": 1},
        }
    },
    "fixed-batch": {"batchSize": 5},
    "objective": {"objective": "throughput"},
    "claim": source(persistentVolumeClaim={"claimName": "musetalk", "path": "/models"}),
    "claim-root": source(persistentVolumeClaim={"claimName": "musetalk"}),
    "host-path": {
        **source(hostPath={"path": "/data/models"}),
        "avatarSource": {"hostPath": {"path": "/data/avatars"}},
    },
    "partial-model": {"model": {"precision": "fp32"}},
    "partial-sessions": {"sessions": {"drainTimeoutSeconds": 0}},
    "tolerations": tolerating(operator="Exists"),
    "tenants": {"tenants": ["acme", "1-globex"]},
    "template": template(
        image="mine/runtime:1",
        labels={"team": "av"},
        resources={"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"cpu": "2500m"}},
        env=[
            {"name": "AVATAR_DEVICE", "value": "cpu"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
        volumes=[{"name": "data", "hostPath": {"path": "/data", "type": "Directory"}}],
        volumeMounts=[{"name": "data", "mountPath": "/data", "readOnly": True}],
    ),
}

RIGHT_AVATAR: Final[Spec] = {
    "source": {"persistentVolumeClaim": {"claimName": "films", "path": "anna.mp4"}},
    "storage": {"persistentVolumeClaim": {"claimName": "faces"}},
    "consent": "Anna, in writing",
}
SHA: Final = "0123456789abcdef" * 4


def from_url(url: str, sha256: str = SHA) -> Spec:
    return {"source": {"url": {"url": url, "sha256": sha256}}}


def prepared(**options: object) -> Spec:
    return {"preparation": options}


AVATAR_FAULTS: Final[dict[str, Wrong]] = {
    "no-source": Wrong({"source": {}}, "spec.source", "exactly one of persistentVolumeClaim"),
    "two-sources": Wrong(
        {"source": {"secret": {"name": "a", "key": "b"}, "configMap": {"name": "a", "key": "b"}}},
        "spec.source",
        "exactly one of persistentVolumeClaim, configMap, secret, url and image must be set",
    ),
    "outside-the-volume": Wrong(
        {"source": {"persistentVolumeClaim": {"claimName": "a", "path": "../b"}}},
        "spec.source.persistentVolumeClaim.path",
        "must stay inside the volume",
    ),
    "key-in-a-folder": Wrong(
        {"source": {"secret": {"name": "a", "key": "b/c"}}},
        "spec.source.secret.key",
        "key must consist of letters",
    ),
    "file-url": Wrong(
        from_url("file:///etc/passwd"), "spec.source.url.url", "url must start with http://"
    ),
    "url-with-a-password": Wrong(
        from_url("https://a:b@c.example/d"), "spec.source.url.url", "no user, password"
    ),
    "short-checksum": Wrong(
        from_url("https://c.example/d", "ab"), "spec.source.url.sha256", "64 lowercase"
    ),
    "no-checksum": Wrong(
        {"source": {"url": {"url": "https://c.example/d"}}},
        "spec.source.url.sha256",
        "Required value",
    ),
    "no-consent": Wrong({"consent": None}, "spec.consent", "Required value"),
    "blank-consent": Wrong({"consent": " \n"}, "spec.consent", "consent must contain text"),
    "two-lines-of-disclosure": Wrong(
        {"disclosure": "a\nb"}, "spec.disclosure", "disclosure must be one line"
    ),
    "no-storage": Wrong({"storage": None}, "spec.storage", "Required value"),
    "two-storages": Wrong(
        {"storage": {"persistentVolumeClaim": {"claimName": "a"}, "hostPath": {"path": "/b"}}},
        "spec.storage",
        "exactly one of persistentVolumeClaim and hostPath",
    ),
    "end-before-start": Wrong(
        prepared(start="5", end="4.5"), "spec.preparation.end", "end must be greater than start"
    ),
    "start-in-words": Wrong(
        prepared(start="soon"), "spec.preparation.start", "a number of seconds in quotes"
    ),
    "ratio-above-one": Wrong(
        prepared(upperBoundary="1.5"), "spec.preparation.upperBoundary", "a number from 0 to 1"
    ),
    "half-a-crop": Wrong(prepared(crop={"left": 0}), "spec.preparation.crop.top", "Required value"),
    "shift-of-v15": Wrong(
        prepared(bboxShift=3), "spec", "bboxShift must be 0 unless spec.model.version is v1"
    ),
    "one-detector": Wrong(
        prepared(detectors={"dwpose": "a.onnx"}),
        "spec.preparation.detectors",
        "dwpose and faceParser must be set together",
    ),
    "background-in-words": Wrong(
        prepared(background="green"), "spec.preparation.background", "must be a colour"
    ),
    "gpu-in-the-template": Wrong(
        template(resources={"limits": {"nvidia.com/gpu": 1}}),
        "spec.template.resources.limits",
        "the operator requests the GPU",
    ),
}

RIGHT_AVATARS: Final[dict[str, Spec]] = {
    "least": {},
    "url": from_url("https://media.example:8443/a.mp4?v=1"),
    "image": {"source": {"image": {"reference": "faces:1", "path": "anna"}}},
    "v1": {"model": {"version": "v1"}, **prepared(bboxShift=-7)},
    "whole": {
        "model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}},
        "disclosure": "AI generated",
        "placement": {"gpuClasses": ["l4"], "nodeSelector": {"a": "b"}},
        **prepared(
            device="gpu",
            start="0.5",
            end="10",
            crop={"left": 0, "top": 0, "width": 640, "height": 480},
            maskMode="jaw",
            upperBoundary="0.45",
            cheekWidth=60,
            background="#00ff00",
            pixels="png",
            faceResize="lanczos",
            detectors={"dwpose": "dw.onnx", "faceParser": "79999_iter.pth"},
        ),
        "retries": 0,
        "timeoutSeconds": 60,
        "ttlSecondsAfterFinished": 0,
    },
}


def granted(**fields: object) -> Spec:
    return {"access": {"namespaces": ["acme"]}, **fields}


def selecting(**requirement: object) -> Spec:
    return {"access": {"namespaceSelector": {"matchExpressions": [requirement]}}}


def trusting(**changes: object) -> Spec:
    return granted(jwt=[{"issuer": "https://a.example", "audiences": ["avatar"], **changes}])


JWT: Final = "spec.jwt[0]"
EXPRESSION: Final = "spec.access.namespaceSelector.matchExpressions[0]"

TENANT_FAULTS: Final[dict[str, Wrong]] = {
    "no-access": Wrong({}, "spec.access", "Required value"),
    "empty-access": Wrong(
        {"access": {}}, "spec.access", "namespaces must name at least one namespace"
    ),
    "no-namespace": Wrong(
        {"access": {"namespaces": [], "serviceSelector": {}}},
        "spec.access",
        "namespaces must name at least one namespace, or namespaceSelector must be set",
    ),
    "namespace-in-capitals": Wrong(
        {"access": {"namespaces": ["Acme"]}},
        "spec.access.namespaces[0]",
        "the name of a namespace must consist of lowercase letters",
    ),
    "namespace-twice": Wrong(
        {"access": {"namespaces": ["a", "a"]}}, "spec.access.namespaces[1]", "Duplicate value"
    ),
    "label-with-a-blank": Wrong(
        {"access": {"namespaceSelector": {"matchLabels": {"team": "a b"}}}},
        "spec.access.namespaceSelector.matchLabels[team]",
        "a label value must consist of letters",
    ),
    "label-name-with-a-blank": Wrong(
        {"access": {"namespaceSelector": {"matchLabels": {"my team": "a"}}}},
        "spec.access.namespaceSelector.matchLabels",
        "a key of matchLabels must be a label name",
    ),
    "unknown-operator": Wrong(
        selecting(key="team", operator="Gt", values=["1"]),
        f"{EXPRESSION}.operator",
        '"In", "NotIn", "Exists", "DoesNotExist"',
    ),
    "in-nothing": Wrong(
        selecting(key="team", operator="In"),
        f"{EXPRESSION}.values",
        "values must not be empty if operator is In or NotIn",
    ),
    "exists-with-a-value": Wrong(
        selecting(key="team", operator="Exists", values=["a"]),
        f"{EXPRESSION}.values",
        "values must be empty if operator is Exists or DoesNotExist",
    ),
    "class-with-a-slash": Wrong(
        {"access": {"namespaces": ["a"], "gpuClasses": ["a/b"]}},
        "spec.access.gpuClasses[0]",
        "a GPU class must be the name of a GPUProfile",
    ),
    "no-secret": Wrong(
        granted(apiKeys={"secretRefs": []}), "spec.apiKeys.secretRefs", "at least 1 item"
    ),
    "secret-of-another-namespace": Wrong(
        granted(apiKeys={"secretRefs": [{"name": "other/keys"}]}),
        "spec.apiKeys.secretRefs[0].name",
        "the name must consist of lowercase letters, digits, '-' and '.'",
    ),
    "unknown-revocation": Wrong(
        granted(apiKeys={"secretRefs": [{"name": "keys"}], "onRevocation": "Kill"}),
        "spec.apiKeys.onRevocation",
        '"KeepSessions", "EndSessions"',
    ),
    "two-key-sets": Wrong(
        trusting(jwks='{"keys": []}', jwksURL="https://a.example/jwks"),
        JWT,
        "jwksURL must not be set together with jwks",
    ),
    "issuer-in-the-clear": Wrong(
        trusting(issuer="http://a.example"), f"{JWT}.issuer", "issuer must be an https URL"
    ),
    "issuer-with-a-query": Wrong(
        trusting(issuer="https://a.example/?b=c"), f"{JWT}.issuer", "issuer must be an https URL"
    ),
    "keys-in-the-clear": Wrong(
        trusting(jwksURL="http://a.example/jwks"), f"{JWT}.jwksURL", "jwksURL must be an https URL"
    ),
    "keys-with-a-password": Wrong(
        trusting(jwksURL="https://a:b@c.example/jwks"),
        f"{JWT}.jwksURL",
        "without user and fragment",
    ),
    "keys-in-words": Wrong(
        trusting(jwks="none"), f"{JWT}.jwks", "jwks must be a JSON object with the list keys"
    ),
    "no-audience": Wrong(trusting(audiences=[]), f"{JWT}.audiences", "at least 1 item"),
    "unsigned": Wrong(trusting(algorithms=["none"]), f"{JWT}.algorithms[0]", '"RS256"'),
    "shared-secret": Wrong(trusting(algorithms=["HS256"]), f"{JWT}.algorithms[0]", '"RS256"'),
    "claim-of-a-number": Wrong(
        trusting(requiredClaims={"tenant": 7}), f"{JWT}.requiredClaims.tenant", "of type string"
    ),
    "claim-without-a-name": Wrong(
        trusting(requiredClaims={"": "a"}),
        f"{JWT}.requiredClaims",
        "the name of a claim must have 1 to 128 characters",
    ),
    "issuer-twice": Wrong(granted(jwt=trusting()["jwt"] * 2), "spec.jwt[1]", "Duplicate value"),
    "origin-with-a-path": Wrong(
        granted(origins=["https://a.example/"]),
        "spec.origins[0]",
        "an origin must have the form SCHEME://HOST or SCHEME://HOST:PORT",
    ),
    "origin-of-all": Wrong(granted(origins=["*"]), "spec.origins[0]", "an origin must have"),
    "origin-twice": Wrong(
        granted(origins=["https://a.example"] * 2), "spec.origins[1]", "Duplicate value"
    ),
    "more-per-service-than-in-all": Wrong(
        granted(limits={"sessions": 2, "sessionsPerService": 3}),
        "spec.limits.sessionsPerService",
        "sessionsPerService must be less than or equal to sessions",
    ),
    "end-of-no-limit": Wrong(
        granted(limits={"atMonthlyLimit": "Report"}),
        "spec.limits.atMonthlyLimit",
        "atMonthlyLimit must not be set without minutesPerMonth",
    ),
    "cost-as-a-number": Wrong(
        granted(limits={"costPerHour": 12.5}), "spec.limits.costPerHour", "must be of type string"
    ),
    "cost-of-zero": Wrong(
        granted(limits={"costPerHour": "0"}),
        "spec.limits.costPerHour",
        "costPerHour must be a positive decimal number in quotes",
    ),
    "no-weight": Wrong(granted(weight=0), "spec.weight", "greater than or equal to 1"),
    "negative-priority": Wrong(granted(priority=-1), "spec.priority", "greater than or equal to 0"),
    "misspelt-field": Wrong(granted(limit={}), "spec.limit", "unknown field"),
}

RIGHT_TENANTS: Final[dict[str, Spec]] = {
    "least": granted(),
    "every-namespace": {"access": {"namespaceSelector": {}}},
    "both": {
        "access": {
            "namespaces": ["a"],
            "namespaceSelector": {"matchLabels": {"example.com/team": "a_b.c", "empty": ""}},
            "serviceSelector": {
                "matchExpressions": [
                    {"key": "stage", "operator": "NotIn", "values": ["test"]},
                    {"key": "public", "operator": "Exists"},
                ]
            },
            "gpuClasses": ["rtx-4090"],
        }
    },
    "jwt": trusting(jwksURL="https://a.example:8443/jwks?v=1", algorithms=["EdDSA"]),
    "jwks": trusting(jwks='{"keys": [{"kty": "EC"}]}', clockSkewSeconds=0),
    "origins": granted(origins=["http://localhost:3000", "https://a.example", "http://[::1]:80"]),
    "limits": granted(
        limits={"sessions": 0, "minutesPerMonth": 0, "gpus": 0, "costPerHour": "0.5"}
    ),
}

COLLECTIONS: Final = {
    "AvatarService": SERVICES,
    "GPUProfile": PROFILES,
    "Avatar": AVATARS,
    "AvatarTenant": TENANTS,
}

RIGHT_PROFILES: Final[dict[str, Spec]] = {
    "whole": profile(),
    "free": {key: value for key, value in profile().items() if key != "costPerHour"},
    "one-point": profile(frameBatchMs=[[16, 200]]),
    "level-times": profile(frameBatchMs=[[1, 10], [2, 10]]),
    "globs": profile(
        match={"products": ["*A100-???4-*", "A100"], "memoryMiB": {"min": 5, "max": 5}}
    ),
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def resources(cluster: ControlPlane) -> AsyncIterator[ControlPlane]:
    """Give the cluster with the CRDs of the repository and a namespace of our own."""
    crds = ROOT / "crds"
    await cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", crds)
    await cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", crds)
    await cluster.kubectl("create", "namespace", NAMESPACE)
    yield cluster
    await cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="session")
def api(resources: ControlPlane) -> Iterator[httpx.Client]:
    """Give a client of the API server: a kubectl for each spec would take its own second."""
    pki = certificates.Pki(resources.layout.pki)
    context = ssl.create_default_context(cafile=pki.ca)
    context.load_cert_chain(pki.certificate("admin"), pki.key("admin"))
    with httpx.Client(
        base_url=resources.server, verify=context, trust_env=False, timeout=30
    ) as client:
        yield client


def body(kind: str, spec: Spec, name: str = "probe") -> Spec:
    return {
        "apiVersion": "avatar.musetalk.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def message(answer: httpx.Response) -> str:
    assert answer.status_code in (400, 422), answer.text
    text: str = answer.json()["message"]
    return text.replace("may not be longer than", "may not be more than")  # words of older releases


def names(field: str, text: str) -> bool:
    """Return whether a refusal names a field: `spec.x: ...`, or `unknown field "spec.x"`."""
    return f"{field}: " in text or f'"{field}"' in text


def test_table_is_as_long_as_promised() -> None:
    assert len(SERVICE_FAULTS) + len(PROFILE_FAULTS) + len(AVATAR_FAULTS) >= 60


@pytest.mark.parametrize("wrong", SERVICE_FAULTS.values(), ids=SERVICE_FAULTS.keys())
def test_wrong_service_is_refused_by_field_and_rule(api: httpx.Client, wrong: Wrong) -> None:
    answer = api.post(SERVICES, params=DRY_RUN, json=body("AvatarService", wrong.spec))
    assert names(wrong.field, message(answer))
    assert wrong.rule in message(answer)


@pytest.mark.parametrize("wrong", PROFILE_FAULTS.values(), ids=PROFILE_FAULTS.keys())
def test_wrong_profile_is_refused_by_field_and_rule(api: httpx.Client, wrong: Wrong) -> None:
    answer = api.post(PROFILES, params=DRY_RUN, json=body("GPUProfile", wrong.spec))
    assert names(wrong.field, message(answer))
    assert wrong.rule in message(answer)


@pytest.mark.parametrize("wrong", TENANT_FAULTS.values(), ids=TENANT_FAULTS.keys())
def test_wrong_tenant_is_refused_by_field_and_rule(api: httpx.Client, wrong: Wrong) -> None:
    answer = api.post(TENANTS, params=DRY_RUN, json=body("AvatarTenant", wrong.spec))
    assert names(wrong.field, message(answer))
    assert wrong.rule in message(answer)


@pytest.mark.parametrize("spec", RIGHT_TENANTS.values(), ids=RIGHT_TENANTS.keys())
def test_right_tenant_is_taken(api: httpx.Client, spec: Spec) -> None:
    answer = api.post(TENANTS, params=DRY_RUN, json=body("AvatarTenant", spec))
    assert answer.status_code == httpx.codes.CREATED, answer.text


def test_tenant_needs_the_name_of_a_dns_label(api: httpx.Client) -> None:
    for name, rule in [
        ("a" * 64, "metadata.name must be no more than 63 characters"),
        ("acme.example", "metadata.name must consist of lowercase letters, digits and '-'"),
    ]:
        answer = api.post(TENANTS, params=DRY_RUN, json=body("AvatarTenant", granted(), name))
        assert rule in message(answer)


@pytest.mark.parametrize("wrong", AVATAR_FAULTS.values(), ids=AVATAR_FAULTS.keys())
def test_wrong_avatar_is_refused_by_field_and_rule(api: httpx.Client, wrong: Wrong) -> None:
    spec = {key: value for key, value in (RIGHT_AVATAR | wrong.spec).items() if value is not None}
    answer = api.post(AVATARS, params=DRY_RUN, json=body("Avatar", spec))
    assert names(wrong.field, message(answer))
    assert wrong.rule in message(answer)


@pytest.mark.parametrize("spec", RIGHT_AVATARS.values(), ids=RIGHT_AVATARS.keys())
def test_right_avatar_is_taken(api: httpx.Client, spec: Spec) -> None:
    taken = body("Avatar", RIGHT_AVATAR | spec)
    answer = api.post(AVATARS, params=DRY_RUN, json=taken)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    parse_avatar(answer.json())


def test_the_storage_of_an_avatar_is_immutable(api: httpx.Client) -> None:
    answer = api.post(AVATARS, json=body("Avatar", RIGHT_AVATAR, "kept"))
    assert answer.status_code == httpx.codes.CREATED, answer.text
    headers = {"Content-Type": "application/merge-patch+json"}
    for storage in (
        {"persistentVolumeClaim": {"claimName": "other"}},
        {"persistentVolumeClaim": None, "hostPath": {"path": "/faces"}},
    ):
        patch = {"spec": {"storage": storage}}
        answer = api.patch(
            f"{AVATARS}/kept", params=DRY_RUN, content=json.dumps(patch), headers=headers
        )
        assert "spec.storage is immutable" in message(answer)
    answer = api.delete(f"{AVATARS}/kept")
    assert answer.status_code == httpx.codes.OK


@dataclass(frozen=True, slots=True)
class Bound:
    """A field of a spec, and what its schema says of its values."""

    kind: str
    path: str
    schema: Spec

    def breaches(self) -> Iterator[tuple[object, str]]:
        """Yield values that each break one bound, and the rule that the refusal must name."""
        schema, kind = self.schema, self.schema["type"]
        yield {"string": 7, "object": "x", "array": "x"}.get(kind, "two"), f"must be of type {kind}"
        if "enum" in schema:
            allowed = ", ".join(json.dumps(str(value)) for value in schema["enum"])
            yield "none-of-them" if kind == "string" else 10**6, f"supported values: {allowed}"
        if schema.get("exclusiveMinimum"):
            yield schema["minimum"], f"greater than {schema['minimum']}"
        elif "minimum" in schema:
            yield schema["minimum"] - 1, f"greater than or equal to {schema['minimum']}"
        if "maximum" in schema:
            yield schema["maximum"] + 1, f"less than or equal to {schema['maximum']}"
        if "maxLength" in schema:
            yield "a" * (schema["maxLength"] + 1), f"may not be more than {schema['maxLength']}"
        if schema.get("minLength"):
            yield "", f"at least {schema['minLength']} chars"
        if "pattern" in schema:
            yield "\t!", "should match"
        if "maxItems" in schema:
            item = {"string": "a", "object": {}, "array": []}.get(schema["items"]["type"], 1)
            yield [item] * (schema["maxItems"] + 1), f"at most {schema['maxItems']} items"
        if "maxProperties" in schema:
            most = schema["maxProperties"]
            yield {f"k{n}": "a" for n in range(most + 1)}, f"at most {most} items"

    def holding(self, value: object) -> Spec:
        """Return a spec with the value at the path and nothing beside it."""
        for part in reversed(re.findall(r"\[\]|\{\}|[^.\[{]+", self.path)):
            value = [value] if part == "[]" else {"k" if part == "{}" else part: value}
        assert isinstance(value, dict)
        return value

    @property
    def reported(self) -> str:
        """The path as a refusal writes it."""
        return f"spec.{self.path}".replace("[]", "[0]").replace("{}", ".k")


def bounds(kind: str, schema: Spec, path: str = "") -> Iterator[Bound]:
    children = [
        (f"{path}.{name}".lstrip("."), c) for name, c in schema.get("properties", {}).items()
    ]
    for mark, key in (("[]", "items"), ("{}", "additionalProperties")):
        if isinstance(schema.get(key), dict):
            children.append((path + mark, schema[key]))
    for where, child in children:
        if "type" in child:
            yield Bound(kind, where, child)
        yield from bounds(kind, child, where)


def every_bound() -> Iterator[Bound]:
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())["spec"]
        schema = definition["versions"][0]["schema"]["openAPIV3Schema"]
        yield from bounds(definition["names"]["kind"], schema["properties"]["spec"])


BOUNDS: Final = {f"{bound.kind}.{bound.path}": bound for bound in every_bound()}


def test_whole_spec_is_walked() -> None:
    assert len(BOUNDS) > 100
    assert sum(len(list(bound.breaches())) for bound in BOUNDS.values()) > 200


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS.keys())
def test_every_bound_of_every_field_is_refused_in_words(api: httpx.Client, bound: Bound) -> None:
    collection = COLLECTIONS[bound.kind]
    for value, rule in bound.breaches():
        answer = api.post(collection, params=DRY_RUN, json=body(bound.kind, bound.holding(value)))
        assert names(bound.reported, message(answer)), (value, message(answer))
        assert rule in message(answer), value


@pytest.mark.parametrize("spec", RIGHT_SERVICES.values(), ids=RIGHT_SERVICES.keys())
def test_right_service_is_taken(api: httpx.Client, spec: Spec) -> None:
    answer = api.post(SERVICES, params=DRY_RUN, json=body("AvatarService", spec))
    assert answer.status_code == httpx.codes.CREATED, answer.text


@pytest.mark.parametrize("name", ["bridge-in-full", "bridge-without-a-key", "speech-in-full"])
def test_the_operator_takes_the_same_upstreams(api: httpx.Client, name: str) -> None:
    answer = api.post(SERVICES, params=DRY_RUN, json=body("AvatarService", RIGHT_SERVICES[name]))
    service = parse_service(answer.json())
    assert service.upstream is not None


@pytest.mark.parametrize("spec", RIGHT_PROFILES.values(), ids=RIGHT_PROFILES.keys())
def test_right_profile_is_taken(api: httpx.Client, spec: Spec) -> None:
    answer = api.post(PROFILES, params=DRY_RUN, json=body("GPUProfile", spec))
    assert answer.status_code == httpx.codes.CREATED, answer.text


@pytest.mark.parametrize("seed", range(3))
def test_the_operator_takes_the_same_policies_as_the_api_server(
    api: httpx.Client, seed: int
) -> None:
    chance = random.Random(seed)
    verdicts = set()
    for _ in range(100):
        spec = {"autoscaling": policy_fuzz.autoscaling(chance)}
        answer = api.post(SERVICES, params=DRY_RUN, json=body("AvatarService", spec))
        faults: tuple[object, ...] = ()
        try:
            parse_service(body("AvatarService", spec))
        except InvalidResource as error:
            faults = tuple(error.faults)
        taken = answer.status_code == httpx.codes.CREATED
        assert taken == (not faults), (spec, answer.text, faults)
        verdicts.add(taken)
    assert verdicts == {True, False}


def test_examples_are_taken(api: httpx.Client) -> None:
    paths = COLLECTIONS
    documents = [
        document
        for path in sorted((ROOT / "examples").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    assert {document["kind"] for document in documents} == paths.keys()
    for document in documents:
        # A name that nobody holds, or the dry run of a create answers that it exists.
        probe = {**document, "metadata": {"name": f"probe-{document['metadata']['name']}"}}
        answer = api.post(paths[document["kind"]], params=DRY_RUN, json=probe)
        assert answer.status_code == httpx.codes.CREATED, answer.text


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("a" * 41, "metadata.name must be no more than 40 characters"),
        ("my.service", "metadata.name must consist of lowercase letters, digits and '-'"),
        ("1st", "must start with a letter"),
    ],
    ids=["long", "dotted", "digit-first"],
)
def test_name_that_breaks_the_names_of_pods_is_refused(
    api: httpx.Client, name: str, rule: str
) -> None:
    answer = api.post(SERVICES, params=DRY_RUN, json=body("AvatarService", {}, name))
    assert rule in message(answer)


def test_profile_needs_a_name_that_fits_a_label(api: httpx.Client) -> None:
    answer = api.post(PROFILES, params=DRY_RUN, json=body("GPUProfile", profile(), "a" * 64))
    assert "metadata.name must be no more than 63 characters" in message(answer)


def test_service_without_spec_is_refused(api: httpx.Client) -> None:
    bare = {key: value for key, value in body("AvatarService", {}).items() if key != "spec"}
    assert "spec: Required value" in message(api.post(SERVICES, params=DRY_RUN, json=bare))


def test_defaults_are_as_documented(api: httpx.Client) -> None:
    answer = api.post(SERVICES, params=DRY_RUN, json=body("AvatarService", {}))
    assert answer.json()["spec"] == {
        "model": {
            "version": "v15",
            "decoder": "sd-vae",
            "precision": "fp16",
        },
        "fps": 25,
        "replicas": 1,
        "placement": {"strategy": "preferred", "whenFull": "fallThrough"},
        "sessions": {
            "maxDurationSeconds": 7200,
            "idleTimeoutSeconds": 300,
            "drainTimeoutSeconds": 3600,
            "turnDetection": "server_vad",
        },
        "upstream": {"mode": "drive"},
    }


def test_version_of_the_model_cannot_change(api: httpx.Client) -> None:
    made = api.post(SERVICES, json=body("AvatarService", {"replicas": 0}, "pinned"))
    assert made.status_code == httpx.codes.CREATED, made.text
    patch = {"spec": {"model": {"version": "v1"}}}
    headers = {"content-type": "application/merge-patch+json"}
    answer = api.patch(f"{SERVICES}/pinned", params=DRY_RUN, json=patch, headers=headers)
    assert "spec.model.version" in message(answer)
    assert "spec.model.version is immutable; create a new service" in message(answer)


NOWHERE: Final = {"replicas": 0, "placement": {"gpuClasses": ["no-such-class"]}}
CLAIM: Final = {"persistentVolumeClaim": {"claimName": "musetalk"}}
FOLDER: Final = {"hostPath": {"path": "/data"}}
OWN_IMAGE: Final = {"image": {"path": "/models"}}
STORED: Final = {  # what earlier versions of the CRD stored in each service
    "model": {"source": {"image": {"path": "/opt/avatar/models/demo"}}},
    "avatarSource": {"image": {"path": "/opt/avatar/avatars"}},
}


def sources(kind: Spec) -> Spec:
    return {**NOWHERE, "model": {"source": kind}, "avatarSource": kind}


@pytest.mark.parametrize("first", [{}, STORED], ids=["new", "stored-default"])
@pytest.mark.parametrize("mode", ["server", "client"])
async def test_another_source_can_be_applied(
    resources: ControlPlane, first: Spec, mode: str
) -> None:
    name = f"sourced-{mode}-{len(first)}"
    options = ("--server-side", "--force-conflicts") if mode == "server" else ()
    apply = ("apply", "-n", NAMESPACE, "-f", "-", *options)
    steps = [NOWHERE, sources(CLAIM), sources(FOLDER)]
    if first:  # by another manager, so that no apply removes it, as with a default of the schema
        stored = body("AvatarService", {**NOWHERE, **first}, name)
        await resources.kubectl("create", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(stored))
    else:
        steps += [sources(OWN_IMAGE), NOWHERE]
    for spec in steps:
        manifest = json.dumps(body("AvatarService", spec, name))
        await resources.kubectl(*apply, stdin=manifest)
        found = json.loads(await resources.kubectl("get", "-n", NAMESPACE, f"avs/{name}", "-ojson"))
        service, wanted = parse_service(found), parse_service(json.loads(manifest))
        assert service.model.source == wanted.model.source
        assert service.avatar_source == wanted.avatar_source


async def test_a_patch_can_change_the_source(resources: ControlPlane) -> None:
    manifest = json.dumps(body("AvatarService", NOWHERE, "patched"))
    await resources.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=manifest)
    patch = ("patch", "-n", NAMESPACE, "avs/patched", "--type=merge", "-p")
    await resources.kubectl(*patch, json.dumps({"spec": sources(CLAIM)}))
    with pytest.raises(errors.CommandFailed, match="must set the previous one to null"):
        await resources.kubectl(*patch, json.dumps({"spec": sources(FOLDER)}))
    without = {"persistentVolumeClaim": None}
    await resources.kubectl(*patch, json.dumps({"spec": sources({**FOLDER, **without})}))


async def test_scale_works_with_replicas_and_is_refused_with_autoscaling(
    resources: ControlPlane,
) -> None:
    # Nothing may be placed for these: no class of this name exists.
    nowhere = {"placement": {"gpuClasses": ["no-such-class"]}}
    fixed = body("AvatarService", {"replicas": 0, **nowhere}, "fixed")
    scaled = body("AvatarService", {"autoscaling": ONE_TO_TWO, **nowhere}, "scaled")
    manifests = yaml.safe_dump_all([fixed, scaled])
    await resources.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=manifests)
    await resources.kubectl("scale", "-n", NAMESPACE, "avs/fixed", "--replicas=2")
    replicas = ("-o", "jsonpath={.spec.replicas}")
    assert await resources.kubectl("get", "-n", NAMESPACE, "avs/fixed", *replicas) == "2"
    with pytest.raises(errors.CommandFailed) as refusal:
        await resources.kubectl("scale", "-n", NAMESPACE, "avs/scaled", "--replicas=2")
    assert "spec.replicas must not be set together with spec.autoscaling" in str(refusal.value)


async def test_columns_are_those_of_the_contract(resources: ControlPlane) -> None:
    header = (await resources.kubectl("get", "avs", "-n", NAMESPACE)).splitlines()[0].split()
    assert header == "NAME READY DESIRED SESSIONS FREE GPU BATCH STATE AGE".split()
