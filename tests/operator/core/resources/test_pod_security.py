from __future__ import annotations

from avatar_operator.core.resources.pod_security import PodSecurity


def test_the_defaults_comply_with_the_restricted_standard() -> None:
    usual = PodSecurity()
    assert usual.pod == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert usual.container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
