"""Names that other programs rely on: labels, annotations, conditions, reasons, ports."""

from __future__ import annotations

from enum import Enum
from typing import Final

from avatar_contracts.labels import ADMIN_PORT as ADMIN_PORT
from avatar_contracts.labels import ANNOTATION_COST_PER_HOUR as ANNOTATION_COST_PER_HOUR
from avatar_contracts.labels import GROUP as GROUP
from avatar_contracts.labels import LABEL_GPU_CLASS as LABEL_GPU_CLASS
from avatar_contracts.labels import LABEL_KEY_GENERATION as LABEL_KEY_GENERATION
from avatar_contracts.labels import LABEL_MADE_FOR as LABEL_MADE_FOR
from avatar_contracts.labels import LABEL_NAME as LABEL_NAME
from avatar_contracts.labels import LABEL_RESERVE as LABEL_RESERVE
from avatar_contracts.labels import LABEL_SERVICE as LABEL_SERVICE
from avatar_contracts.labels import RESERVED as RESERVED
from avatar_contracts.labels import RUNTIME_NAME as RUNTIME_NAME
from avatar_contracts.labels import SERVICE_KIND as SERVICE_KIND
from avatar_contracts.labels import SERVICES as SERVICES
from avatar_contracts.labels import SESSIONS_PORT as SESSIONS_PORT
from avatar_contracts.labels import TENANTS as TENANTS
from avatar_contracts.labels import VERSION as VERSION

API_VERSION: Final = f"{GROUP}/{VERSION}"
PROFILES: Final = "gpuprofiles"
PROFILE_KIND: Final = "GPUProfile"
TENANT_KIND: Final = "AvatarTenant"
AVATARS: Final = "avatars"
AVATAR_KIND: Final = "Avatar"

FIELD_MANAGER: Final = "avatar-operator"
CONTAINER: Final = "runtime"
IMAGE_CHECK_CONTAINER: Final = "image-check"
PREPARE_CONTAINER: Final = "prepare"
FETCH_CONTAINER: Final = "fetch"
PREPARATION_NAME: Final = "avatar-preparation"
GPU_RESOURCE: Final = "nvidia.com/gpu"
SHARED_RESOURCE: Final = "nvidia.com/gpu.shared"
MIG_RESOURCES: Final = "nvidia.com/mig-"  # prefix of names such as nvidia.com/mig-3g.20gb
UNSUPPORTED_RESOURCES: Final = {
    "amd.com/gpu": "AMD",
    "gpu.intel.com/i915": "Intel",
    "gpu.intel.com/xe": "Intel",
}
"""GPUs that the runtime cannot use, with their vendor."""
NVIDIA: Final = "NVIDIA"
DRA_DRIVERS: Final = {
    "gpu.nvidia.com": NVIDIA,
    "gpu.amd.com": "AMD",
    "gpu.intel.com": "Intel",
}
"""DRA drivers that publish GPUs, with their vendor."""
GPU_DEVICE_CLASS: Final = "gpu.nvidia.com"
MIG_DEVICE_CLASS: Final = "mig.nvidia.com"
CLAIM: Final = "gpu"
"""Name of the claim of a GPU in a pod, and of the request in the claim."""
ANNOTATION_HAMI: Final = "hami.io/node-nvidia-register"  # HAMi splits the GPUs of such a node

LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_SPEC_HASH: Final = f"{GROUP}/spec-hash"
LABEL_IMAGE_CHECK: Final = f"{GROUP}/image-check"  # name of the service
LABEL_AVATAR: Final = f"{GROUP}/avatar"  # name of the Avatar that a Job prepares
LABEL_LIVE: Final = f"{GROUP}/live"
LIVE: Final = "true"

ANNOTATION_BATCH_SIZE: Final = f"{GROUP}/batch-size"
ANNOTATION_SESSIONS_PER_POD: Final = f"{GROUP}/sessions-per-pod"
ANNOTATION_EPOCH: Final = f"{GROUP}/epoch"  # leaseTransitions of the leader that created the pod
ANNOTATION_SIMULATED: Final = f"{GROUP}/simulated-calibrations"
ANNOTATION_FREEZE: Final = f"{GROUP}/freeze"  # on a service
ANNOTATION_PAUSE_SCALE_IN: Final = f"{GROUP}/pause-scale-in"  # on a service
ANNOTATION_SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
ANNOTATION_DO_NOT_DISRUPT: Final = "karpenter.sh/do-not-disrupt"
ANNOTATION_PAUSED: Final = f"{GROUP}/paused"  # on a service
ANNOTATION_ALLOW_UNPULLED: Final = f"{GROUP}/allow-unpulled-image"  # on a service
ANNOTATION_ATTEMPT: Final = f"{GROUP}/attempt"  # on a Job of an Avatar
ANNOTATION_PREPARE_AGAIN: Final = f"{GROUP}/prepare-again"  # on an Avatar
FINALIZER: Final = f"{GROUP}/in-use"  # on an Avatar
ANNOTATION_DRAIN: Final = f"{GROUP}/drain"  # on a pod

LABEL_ZONE: Final = "topology.kubernetes.io/zone"
LABEL_HOST: Final = "kubernetes.io/hostname"
LABEL_PRODUCT: Final = "nvidia.com/gpu.product"
LABEL_MIG_STRATEGY: Final = "nvidia.com/mig.strategy"

TAINT_NOT_READY: Final = "node.kubernetes.io/not-ready"
TAINT_UNREACHABLE: Final = "node.kubernetes.io/unreachable"
TAINT_UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"

MASTER_KEY: Final = "master"
PREVIOUS_MASTER_KEY: Final = "previous"
TOKEN_VOLUME: Final = "avatar-tokens"
CACHE_VOLUME: Final = "model-cache"
"""The volume with downloaded models and avatars."""
CACHE_CONTAINER_PREFIX: Final = "cache-"
"""Before `models` or `avatars`: the init containers that download them."""
TOKEN_FOLDER: Final = "/var/run/avatar-tokens"
UPSTREAM_VOLUME: Final = "avatar-upstream-keys"


def pdb(service: str) -> str:
    """Return the name of the PodDisruptionBudget of a service's pods with sessions."""
    return f"{service}-live"


def network_policy(service: str) -> str:
    """Return the name of the NetworkPolicy of a service's pods."""
    return f"{service}-network"


def image_check(service: str, spec_hash: str) -> str:
    """Return the name of the pod that pulls the image of a spec before a pod makes room for it."""
    return f"{service}-{spec_hash[:5]}-image"


def preparation(avatar: str, spec_hash: str, attempt: int) -> str:
    """Return the name of the Job that prepares an avatar."""
    return f"{avatar}-prepare-{spec_hash[:5]}-{attempt}"


def preparation_policy(avatar: str) -> str:
    """Return the name of the NetworkPolicy of the pods that prepare an avatar."""
    return f"{avatar}-prepare"


def control_secret(service: str) -> str:
    """Return the name of the Secret with the tokens of a service's pods."""
    return f"{service}-control"


class Condition(Enum):
    """Condition types of an AvatarService."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    GPU_AVAILABLE = "GPUAvailable"
    SCALING_LIMITED = "ScalingLimited"
    DRAINING = "Draining"
    STATE_FRESH = "StateFresh"
    BATCH_CALIBRATED = "BatchCalibrated"
    NODES_RECOGNISED = "NodesRecognised"  # of a GPUProfile
    DEGRADED = "Degraded"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    AVATARS_READY = "AvatarsReady"
    AVAILABLE = "Available"  # of an Avatar
    IN_USE = "InUse"  # of an Avatar
    UPSTREAM_ALLOWED = "UpstreamAllowed"
    KEYS_VALID = "KeysValid"  # of an AvatarTenant
    ISSUERS_AVAILABLE = "IssuersAvailable"  # of an AvatarTenant
    QUOTA_EXCEEDED = "QuotaExceeded"  # of an AvatarTenant


class Reason(Enum):
    """Reasons of conditions, Events and decisions."""

    SERVING = "Serving"
    SCALED_TO_ZERO = "ScaledToZero"
    PODS_STARTING = "PodsStarting"
    PODS_FAILING = "PodsFailing"
    INVALID_SPEC = "InvalidSpec"
    NO_PROFILE = "NoProfile"
    NO_BATCH_FITS = "NoBatchFits"
    NO_GPU_NODE = "NoGPUNode"
    NO_FREE_GPU = "NoFreeGPU"
    WAITING_FOR_NODE = "WaitingForNode"
    BACKING_OFF = "BackingOff"
    MAX_REPLICAS = "MaxReplicas"
    MAX_COST = "MaxCost"
    COST_UNKNOWN = "CostUnknown"
    TENANT_QUOTA = "TenantQuota"
    SCALING_RATE = "ScalingRate"
    WITHIN_BOUNDS = "WithinBounds"
    GPU_ALLOCATED = "GPUAllocated"
    GPU_FREE = "GPUFree"
    NOTHING_ASKED = "NothingAsked"
    UP_TO_DATE = "UpToDate"
    ROLLING_OUT = "RollingOut"
    ROLLOUT_HALTED = "RolloutHalted"
    NEW_PODS_FAILING = "NewPodsFailing"
    NEW_PODS_SLOWER = "NewPodsSlower"
    PAUSED = "Paused"
    NODE_LEAVING = "NodeLeaving"
    DRAIN_ASKED = "DrainAsked"
    SERVICE_GONE = "ServiceGone"
    TERMINATING = "Terminating"
    NODE_LOST = "NodeLost"
    BELOW_REAL_TIME = "BelowRealTime"
    FIELD_CONFLICT = "FieldConflict"
    NAME_TAKEN = "NameTaken"
    MANAGED_ELSEWHERE = "ManagedElsewhere"
    LABELS_RESTORED = "LabelsRestored"
    SCALING_UP = "ScalingUp"
    SCALING_DOWN = "ScalingDown"
    GIVING_BACK = "GivingBack"
    REPLACING = "Replacing"
    NOT_DRAINING = "NotDraining"
    WAITING_FOR_SESSIONS = "WaitingForSessions"
    CALIBRATED = "Calibrated"
    NOT_CALIBRATED = "NotCalibrated"
    CALIBRATION_DIFFERS = "CalibrationDiffers"
    LABELS_CLEAR = "LabelsClear"
    LABELS_AMBIGUOUS = "LabelsAmbiguous"
    STATE_KNOWN = "StateKnown"
    STATE_MISSING = "StateMissing"
    APPLY_FAILED = "ApplyFailed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY_VIOLATION = "PodSecurityViolation"
    PRIORITY_CLASS_NOT_FOUND = "PriorityClassNotFound"
    RUNTIME_CLASS_NOT_FOUND = "RuntimeClassNotFound"
    SERVICE_ACCOUNT_NOT_FOUND = "ServiceAccountNotFound"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    NOT_PERMITTED = "NotPermitted"
    POD_REFUSED = "PodRefused"
    IMAGE_NOT_PULLED = "ImageNotPulled"
    INVALID_ANNOTATION = "InvalidAnnotation"
    EGRESS_OPEN = "EgressOpen"
    EGRESS_CLOSED = "EgressClosed"
    APPLIED = "Applied"
    AVATARS_PREPARED = "AvatarsPrepared"
    AVATARS_NOT_READY = "AvatarsNotReady"
    PREPARED = "Prepared"
    NOT_PREPARED = "NotPrepared"
    EARLIER_VERSION = "EarlierVersion"
    WAITING_FOR_GPU = "WaitingForGPU"
    WAITING_FOR_SERVICES = "WaitingForServices"
    WAITING_FOR_PREPARATIONS = "WaitingForPreparations"
    WAITING_FOR_JOB = "WaitingForJob"
    JOB_SCHEDULING = "JobScheduling"
    JOB_RUNNING = "JobRunning"
    JOB_CREATED = "JobCreated"
    JOB_DELETED = "JobDeleted"
    JOB_FAILED = "JobFailed"
    JOB_TIMED_OUT = "JobTimedOut"
    JOB_REFUSED = "JobRefused"
    SOURCE_REFUSED = "SourceRefused"
    SOURCE_UNUSABLE = "SourceUnusable"
    HOST_NOT_ALLOWED = "HostNotAllowed"
    NAMED_BY_SERVICES = "NamedByServices"
    NOT_NAMED = "NotNamed"
    DELETION_WAITS = "DeletionWaits"
    SERVICES_AVAILABLE = "ServicesAvailable"
    NO_SERVICE = "NoService"
    NO_CREDENTIAL = "NoCredential"
    KEYS_USABLE = "KeysUsable"
    KEYS_EXPIRE_SOON = "KeysExpireSoon"
    KEYS_UNUSABLE = "KeysUnusable"
    KEYS_NOT_CONFIGURED = "KeysNotConfigured"
    KEY_SETS_FETCHED = "KeySetsFetched"
    KEY_SETS_UNAVAILABLE = "KeySetsUnavailable"
    ISSUERS_NOT_CONFIGURED = "IssuersNotConfigured"
    GATEWAYS_SILENT = "GatewaysSilent"
    WITHIN_LIMITS = "WithinLimits"
    SESSIONS = "Sessions"
    SESSIONS_PER_SERVICE = "SessionsPerService"
    MINUTES_PER_MONTH = "MinutesPerMonth"
    GPUS = "GPUs"
    COST_PER_HOUR = "CostPerHour"
    SHARED_STATE_UNAVAILABLE = "SharedStateUnavailable"
    POD_CREATED = "PodCreated"
    POD_STARTED = "PodStarted"
    POD_DRAINING = "PodDraining"
    POD_RESUMED = "PodResumed"
    POD_PROMOTED = "PodPromoted"
    POD_ADOPTED = "PodAdopted"
    POD_DELETED = "PodDeleted"
