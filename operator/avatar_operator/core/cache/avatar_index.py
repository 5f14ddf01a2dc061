"""Keeps the avatars, the Jobs that prepare them with their pods, and which services name them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_operator import names
from avatar_operator.core.cache.entries import AvatarBody, ChangeImpact, to_text
from avatar_operator.core.cache.objects import Cache
from avatar_operator.core.planning.avatars.needs import KnownAvatar
from avatar_operator.core.resources.avatar import parse_storage
from avatar_operator.core.resources.fields import split_body
from avatar_operator.core.resources.preparation import (
    PreparationJob,
    PreparationPod,
    parse_job,
    parse_pod,
)
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_NAMED: Final = 64
"""Avatars that a service may name, as in the CRD."""


class AvatarIndex:
    """The avatars of the cluster, and what concerns them."""

    def __init__(self) -> None:
        self.avatars: Cache[AvatarBody] = Cache()
        self._known: dict[str, KnownAvatar] = {}  # by UID
        self._uids: dict[ServiceKey, str] = {}
        self._jobs: Cache[PreparationJob] = Cache()  # without their pods
        self._jobs_of: dict[str, set[str]] = {}  # UIDs of Jobs by UID of the avatar
        self._pods: Cache[PreparationPod] = Cache()
        self._pods_of: dict[str, set[str]] = {}  # UIDs of pods by UID of the Job
        self._named: dict[str, tuple[ServiceKey, ...]] = {}  # avatars by UID of the service
        self._naming: dict[ServiceKey, dict[str, str]] = {}  # UID and name of services by avatar

    def put_avatar(self, uid: str, version: int, body: Mapping[str, object]) -> ChangeImpact:
        """Store an avatar; services that name it are affected if it became available, or not."""
        metadata = Fields(body.get("metadata"), "metadata", [])
        key = ServiceKey(metadata.text("namespace"), metadata.text("name"))
        before = self.known(key)
        if not self.avatars.put(uid, version, _avatar_body(key, metadata, body)):
            return ChangeImpact()
        self._uids[key] = uid
        self._known[uid] = _known_avatar(key, body)
        services = () if self.known(key) == before else tuple(self._naming.get(key, ()))
        return ChangeImpact(services, avatars=(uid,))

    def drop_avatar(self, uid: str) -> ChangeImpact:
        """Remove a deleted avatar."""
        avatar = self.avatars.drop(uid)
        if avatar is None:
            return ChangeImpact()
        self._known.pop(uid, None)
        if self._uids.get(avatar.key) == uid:
            del self._uids[avatar.key]
        return ChangeImpact(tuple(self._naming.get(avatar.key, ())), avatars=(uid,))

    def known(self, key: ServiceKey) -> KnownAvatar | None:
        """Return what services need to know of an avatar, None if it does not exist."""
        return self._known.get(self._uids.get(key, ""))

    def known_to(self, uid: str) -> dict[str, KnownAvatar]:
        """Return the existing avatars that a service names, by name."""
        found = ((key.name, self.known(key)) for key in self._named.get(uid, ()))
        return {name: avatar for name, avatar in found if avatar is not None}

    def services_naming(self, key: ServiceKey) -> tuple[str, ...]:
        """Return the names of the services that name an avatar, sorted."""
        return tuple(sorted(self._naming.get(key, {}).values()))

    def name(self, uid: str, service: ServiceKey, spec: object) -> tuple[str, ...]:
        """Record the avatars that a service names; return the UIDs of those affected."""
        items = Fields(spec, "spec", []).items("avatars")[:MAX_NAMED]
        wanted = tuple(ServiceKey(service.namespace, i) for i in items if isinstance(i, str))
        before = self._named.pop(uid, ())
        if wanted:
            self._named[uid] = wanted
        for key in before:
            self._naming[key].pop(uid, None)
            if not self._naming[key]:
                del self._naming[key]
        for key in wanted:
            self._naming.setdefault(key, {})[uid] = service.name
        return self._existing(set(before) ^ set(wanted))

    def put_job(self, uid: str, version: int, body: Mapping[str, object]) -> ChangeImpact:
        """Store a Job that an avatar controls."""
        job = parse_job(body)
        if job is None or not self._jobs.put(uid, version, job):
            return ChangeImpact()
        self._jobs_of.setdefault(job.avatar_uid, set()).add(uid)
        return ChangeImpact(avatars=(job.avatar_uid,))

    def drop_job(self, uid: str) -> PreparationJob | None:
        """Remove a deleted Job, and return it if it was known."""
        job = self._jobs.drop(uid)
        if job is not None:
            owned = self._jobs_of[job.avatar_uid]
            owned.discard(uid)
            if not owned:
                del self._jobs_of[job.avatar_uid]
        return job

    def job(self, uid: str) -> PreparationJob | None:
        """Return a Job with its pods, None if it is unknown."""
        job = self._jobs.get(uid)
        if job is None:
            return None
        pods = (self._pods.get(pod) for pod in sorted(self._pods_of.get(uid, ())))
        return replace(job, pods=tuple(pod for pod in pods if pod is not None))

    def jobs_of(self, avatar_uid: str) -> tuple[PreparationJob, ...]:
        """Return the Jobs of an avatar with their pods."""
        return self._with_pods(self._jobs_of.get(avatar_uid, ()))

    def namesakes(self, key: ServiceKey, uid: str) -> tuple[PreparationJob, ...]:
        """Return the Jobs of deleted avatars that had the name of an avatar with another UID."""
        return tuple(
            job
            for job in self.jobs()
            if job.avatar_uid != uid and (job.namespace, job.avatar) == (key.namespace, key.name)
        )

    def orphans(self, key: ServiceKey) -> int:
        """Return the number of pods that prepare this avatar and whose Job is gone."""
        found = (self._pods.get(uid) for uid in self._pods.uids())
        return sum(
            pod is not None
            and pod.avatar == key
            and pod.ended_at is None
            and self._jobs.get(pod.job_uid) is None
            for pod in found
        )

    def jobs(self) -> tuple[PreparationJob, ...]:
        """Return the Jobs of all avatars with their pods; there are few at a time."""
        return self._with_pods(self._jobs.uids())

    def job_uids(self) -> tuple[str, ...]:
        """Return the UIDs of all Jobs."""
        return self._jobs.uids()

    def put_pod(
        self, uid: str, version: int, body: Mapping[str, object]
    ) -> tuple[ChangeImpact, PreparationJob | None] | None:
        """Store a pod of a Job; return the affected avatar and the Job, None if it is another pod.

        The Job is None if it is unknown.
        """
        pod = parse_pod(body)
        if pod is None:
            return None
        changed = self._pods.put(uid, version, pod)
        self._pods_of.setdefault(pod.job_uid, set()).add(uid)
        job = self.job(pod.job_uid)
        avatars = (job.avatar_uid,) if changed and job is not None else ()
        return ChangeImpact(avatars=avatars), job

    def drop_pod(self, uid: str) -> ChangeImpact | None:
        """Remove a deleted pod; return the affected avatar, None if it is another pod."""
        pod = self._pods.drop(uid)
        if pod is None:
            return None
        owned = self._pods_of[pod.job_uid]
        owned.discard(uid)
        if not owned:
            del self._pods_of[pod.job_uid]
        job = self._jobs.get(pod.job_uid)
        return ChangeImpact(avatars=() if job is None else (job.avatar_uid,))

    def pod_uids(self) -> tuple[str, ...]:
        """Return the UIDs of all pods."""
        return self._pods.uids()

    def _with_pods(self, uids: Iterable[str]) -> tuple[PreparationJob, ...]:
        found = (self.job(uid) for uid in sorted(uids))
        return tuple(job for job in found if job is not None)

    def _existing(self, keys: Iterable[ServiceKey]) -> tuple[str, ...]:
        return tuple(self._uids[key] for key in sorted(keys) if key in self._uids)


def _known_avatar(key: ServiceKey, body: Mapping[str, object]) -> KnownAvatar:
    _, _, status = split_body(body)
    conditions = {each.text("type"): each for each in status.children("conditions")}
    nothing = Fields(None, "", [])
    available = conditions.get("Available", nothing).text("status") == "True"
    message = conditions.get("Ready", nothing).text("message")
    storage = parse_storage(Fields(body.get("spec"), "spec", []))
    return KnownAvatar(key.name, storage, available, "" if available else message)


def _avatar_body(key: ServiceKey, metadata: Fields, body: Mapping[str, object]) -> AvatarBody:
    annotations = {
        name: value
        for name, value in metadata.strings("annotations").items()
        if name.startswith(f"{names.GROUP}/")
    }
    generation = metadata.integer("generation", 0, 0, 2**63)
    kept = {
        "name": key.name,
        "namespace": key.namespace,
        "uid": metadata.text("uid"),
        "generation": generation,
        "annotations": annotations,
    }
    _, _, status = split_body(body)
    return AvatarBody(
        key=key,
        generation=generation,
        deleting=metadata.has("deletionTimestamp"),
        finalizers=metadata.texts("finalizers"),
        body_text=to_text({"metadata": kept, "spec": body.get("spec")}),
        status_text=to_text(dict(status.entries())),
    )
