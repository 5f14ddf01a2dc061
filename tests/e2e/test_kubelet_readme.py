"""README's section on a real cluster, on nodes with a real kubelet and the images of `make images`.

Its commands run word by word in the fixture `installed`; every namespace enforces the restricted
Pod Security Standard, and `kubectl port-forward` is the real one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from localcluster.release import SYSTEM

if TYPE_CHECKING:
    from localcluster.kubelet.installed import Installed

pytestmark = [pytest.mark.images, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def test_commands_of_readme_lead_to_a_talking_avatar(installed: Installed) -> None:
    output = installed.output
    assert re.search(r"^concierge +1 +1 .*Serving", output, re.M), output
    assert (installed.reader.folder / "talking.mp4").stat().st_size > 10_000
    talked = json.loads(output[output.index("\n{\n") : output.rindex("\n}\n") + 2])
    assert talked["ok"], talked
    assert talked["frames"] > 25
    assert "rtx-4090-a" in output  # from `avatar-operator plan`


async def test_all_namespaces_enforce_restricted_pods(installed: Installed) -> None:
    for name in (SYSTEM, "default"):
        label = r"jsonpath={.metadata.labels.pod-security\.kubernetes\.io/enforce}"
        enforced = await installed.kubectl("get", "namespace", name, "-o", label)
        assert enforced == "restricted", name


async def test_helm_test_passes(installed: Installed) -> None:
    report = await installed.fleet.control.helm(
        "test", "avatar", "--namespace", SYSTEM, "--timeout", "60s"
    )
    assert re.search(r"^Phase: +Succeeded", report, re.M), report
