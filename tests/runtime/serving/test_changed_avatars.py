"""Avatars that change while sessions run, over real sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import InvalidStatus

from avatar_runtime.avatars.cache import AvatarInfo
from avatar_runtime.serving import runtime

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Serve

pytestmark = pytest.mark.slow


async def test_a_replaced_avatar_is_used_by_new_sessions_only(serve: Serve) -> None:
    async with serve() as served, served.client() as old:
        await old.speak(4)
        await old.until("response.done")
        engine = served.engine
        engine.next_avatars["anna"] = AvatarInfo("anna", 80, 80, 25, 10, "new", "AI generated")
        await served.runtime.refresh_avatars()
        async with served.client() as new:
            [created] = new.of("session.created")
            assert created["session"]["avatar"]["disclosure"] == "AI generated"
            size = {"width": 80, "height": 80}
            assert created["session"]["avatar"]["video"]["resolution"] == size
            await served.runtime.refresh_avatars()
            assert engine.in_use[-1] == {"anna@hash", "anna@new"}
            engine.batches.clear()
            for client, key, width in ((old, "anna@hash", 64), (new, "anna@new", 80)):
                await client.speak(4)
                await client.until("response.done")
                drawn = {(r.avatar, r.width) for batch in engine.batches for r in batch}
                assert drawn == {(key, width)}
                engine.batches.clear()
        assert [c.key for c in served.runtime.avatars.values()] == ["anna@new", "ben@hash"]


async def test_the_folder_is_looked_at_while_the_runtime_serves(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "AVATAR_PERIOD_S", 0.01)
    async with serve() as served:
        del served.engine.next_avatars["ben"]
        await served.eventually(lambda: list(served.runtime.avatars) == ["anna"], "saw the removal")


async def test_avatars_that_are_added_or_removed_are_offered_or_not(serve: Serve) -> None:
    async with serve() as served, served.client() as client:
        engine = served.engine
        del engine.next_avatars["ben"]
        engine.next_avatars["zoe"] = AvatarInfo("zoe", 64, 64, 25, 10, "hash")  # not selected
        await served.runtime.refresh_avatars()
        await client.send(
            "session.update", session={"type": "realtime", "avatar": {"character": "ben"}}
        )
        error = await client.until("error")
        assert error["error"]["code"] == "avatar_not_found"
        assert list(served.runtime.avatars) == ["anna"]
        assert b"avatar_runtime_avatars 1.0" in served.runtime.metrics.render()

        engine.next_avatars["ben"] = AvatarInfo("ben", 64, 64, 25, 10, "hash")
        await served.runtime.refresh_avatars()
        await client.send(
            "session.update", session={"type": "realtime", "avatar": {"character": "ben"}}
        )
        await client.until("session.updated")


async def test_a_pod_whose_avatars_were_all_removed_refuses_sessions(serve: Serve) -> None:
    async with serve() as served, served.client() as client:
        served.engine.next_avatars.clear()
        await served.runtime.refresh_avatars()
        with pytest.raises(InvalidStatus) as refused:
            async with served.client():
                pass
        assert refused.value.response.status_code == 404
        await client.speak(4)
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"


async def test_a_refresh_that_fails_leaves_the_avatars(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as served:

        async def fail(in_use: object) -> bool:
            raise RuntimeError("the volume is gone")

        monkeypatch.setattr(served.engine, "refresh_avatars", fail)
        await served.runtime.refresh_avatars()
        assert list(served.runtime.avatars) == ["anna", "ben"]


async def test_the_disclosure_of_the_service_replaces_that_of_the_avatar(serve: Serve) -> None:
    async with (
        serve(AVATAR_DISCLOSURE="Acme: synthetic video") as served,
        served.client() as client,
    ):
        [created] = client.of("session.created")
        assert created["session"]["avatar"]["disclosure"] == "Acme: synthetic video"
