"""The chart's defaults of all runtime pods (`runtime.defaults`): their type and their parser.

They are merged into a service before it is planned, so that the spec hash, the choice of nodes and
the pods all follow from the same values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from avatar_contracts import documents, labels
from avatar_contracts.fields import Fields
from avatar_operator import names
from avatar_operator.core.resources import quantities
from avatar_operator.core.resources.placement import Placement, Toleration, parse_toleration
from avatar_operator.core.resources.pod_security import Context, PodSecurity
from avatar_operator.core.resources.service import Service, Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.fields import Fault
    from avatar_operator.core.resources.service import Fragment

PATH: Final = "runtime.defaults"
"""The value of the chart; the paths of faults start with it."""

KNOWN: Final = (
    "annotations",
    "env",
    "labels",
    "nodeSelector",
    "podSecurityContext",
    "priorityClassName",
    "resources",
    "runtimeClassName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
)

RESERVED_VARIABLES: Final = frozenset(
    {
        labels.ENV_ADMIN_TOKEN,
        labels.ENV_AVATARS,
        labels.ENV_CAPACITY,
        labels.ENV_DISCLOSURE,
        labels.ENV_DRAIN_TIMEOUT_S,
        labels.ENV_FPS,
        labels.ENV_GPU_CLASS,
        labels.ENV_GPU_PROFILE,
        labels.ENV_IDLE_TIMEOUT_S,
        labels.ENV_MAX_DURATION_S,
        labels.ENV_POD,
        labels.ENV_POD_IP,
        labels.ENV_SERVICE,
        labels.ENV_SESSION_TOKEN,
        labels.ENV_STATE_TOKEN,
        labels.ENV_TOKEN_FOLDER,
        labels.ENV_UPSTREAM,
        *labels.ENV_UPSTREAM_KEYS.values(),
    }
)
"""Variables that the operator sets from the spec; the CRD refuses them in `spec.template.env`."""

_VARIABLE: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_VARIABLE_LIMIT: Final = "letters, digits and '_', and must not start with a digit"
_NAME: Final = r"^([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?)?$"
_NAME_LIMIT: Final = "the name of an object: lowercase letters, digits, '-' and '.'"
_OWN_KEYS: Final = (f"{names.GROUP}/", "app.kubernetes.io/")


@dataclass(frozen=True, slots=True)
class PodDefaults:
    """What a runtime pod has unless its service says otherwise."""

    template: Template = field(default_factory=Template)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    security: PodSecurity = field(default_factory=PodSecurity)

    def merged_into(self, service: Service) -> Service:
        """Return a service with these defaults; each field of the service takes precedence.

        Maps are merged by key, variables by name and resources by resource name. Tolerations are
        added.
        """
        return replace(
            service,
            security=self.security,
            placement=self.completed_placement(service.placement),
            template=self.completed_template(service.template),
        )

    def completed_placement(self, placement: Placement) -> Placement:
        """Return a placement with the node selector and the tolerations of the defaults."""
        return replace(
            placement,
            node_selector=tuple(
                sorted({**self.node_selector, **dict(placement.node_selector)}.items())
            ),
            tolerations=(
                *placement.tolerations,
                *(each for each in self.tolerations if each not in placement.tolerations),
            ),
        )

    def completed_template(self, own: Template) -> Template:
        """Return a template with the defaults for what it does not set."""
        given = self.template
        env_names = {variable.get("name") for variable in own.env}
        return replace(
            own,
            labels={**given.labels, **own.labels},
            annotations={**given.annotations, **own.annotations},
            resources=_completed(own.resources, given.resources),
            env=(*(e for e in given.env if e.get("name") not in env_names), *own.env),
            service_account=own.service_account or given.service_account,
            priority_class=own.priority_class or given.priority_class,
            runtime_class=own.runtime_class or given.runtime_class,
        )


def parse_pod_defaults(text: str) -> tuple[PodDefaults, list[Fault]]:
    """Return the defaults in a JSON object, and everything that is wrong with them.

    Raises:
        ValueError: the text is not JSON.
    """
    document = documents.parse(text)
    faults: list[Fault] = []
    fields = Fields(document, PATH, faults)
    for name, _ in fields.entries():
        if name not in KNOWN:
            fields.add_rule(name, "must be removed; the fields are " + ", ".join(KNOWN))
    defaults = PodDefaults(
        template=Template(
            labels=_own_strings(fields, "labels"),
            annotations=_own_strings(fields, "annotations"),
            resources=quantities.parse_resources(fields.child("resources")),
            env=_env(fields),
            service_account=_name(fields, "serviceAccountName"),
            priority_class=_name(fields, "priorityClassName"),
            runtime_class=_name(fields, "runtimeClassName"),
        ),
        node_selector=fields.strings("nodeSelector"),
        tolerations=tuple(parse_toleration(item) for item in fields.children("tolerations")),
        security=_security(fields),
    )
    return defaults, faults


def _completed(own: quantities.Resources, given: quantities.Resources) -> quantities.Resources:
    if not any(given.values()):
        return own  # as it is written: the spec hash of every service would otherwise change
    return quantities.complete(own, given)


def _own_strings(fields: Fields, name: str) -> dict[str, str]:
    found = fields.strings(name)
    for key in found:
        if key.startswith(_OWN_KEYS):
            fields.child(name).add_rule(key, "must not be set, because the operator sets it")
    return found


def _name(fields: Fields, name: str) -> str | None:
    return fields.text(name, pattern=_NAME, limit=_NAME_LIMIT) or None


def _env(fields: Fields) -> tuple[Fragment, ...]:
    found: list[Fragment] = []
    for index, item in enumerate(fields.children("env")):
        item.required("name", "the name of the variable")
        name = item.text("name", pattern=_VARIABLE, limit=_VARIABLE_LIMIT)
        if name in RESERVED_VARIABLES:
            item.add_rule("name", f"must not be {name}, which the operator sets from the spec")
        elif name and any(each.get("name") == name for each in found):
            fields.add_duplicate("env", index, name)
        item.text("value", limit="a string; numbers, true and false must be in quotes")
        if item.has("value") and item.has("valueFrom"):
            item.add_rule("value", "must not be set together with valueFrom")
        found.append(dict(item.entries()))
    return tuple(found)


def _security(fields: Fields) -> PodSecurity:
    usual = PodSecurity()
    contexts: dict[str, Context] = {}
    for name, default in (("podSecurityContext", usual.pod), ("securityContext", usual.container)):
        contexts[name] = fields.fragment(name) if fields.has(name) else default
    return PodSecurity(contexts["podSecurityContext"], contexts["securityContext"])
