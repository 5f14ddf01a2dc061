"""README's section on uninstalling, on nodes with a real kubelet. The last of these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from localcluster import readme, waiting
from localcluster.kubelet.documents import PAUSE_IMAGE
from localcluster.release import SYSTEM

if TYPE_CHECKING:
    from localcluster.kubelet.installed import Installed

pytestmark = [pytest.mark.images, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def test_commands_of_the_uninstall_section_leave_nothing(installed: Installed) -> None:
    text = readme.section(readme.README, "Uninstall")
    await installed.reader.follow(readme.commands(text))
    assert "musetalk" not in await installed.kubectl("get", "crd", "-o", "name")
    namespaces = await installed.kubectl("get", "namespaces", "-o", "name")
    assert f"namespace/{SYSTEM}" not in namespaces.split()
    assert await installed.fleet.objects("pods", "--all-namespaces") == []
    for node in installed.fleet.nodes:
        await waiting.until(node.containers, lambda left: left == (), f"{node.name} is empty", 60)
        assert PAUSE_IMAGE in await node.images()
