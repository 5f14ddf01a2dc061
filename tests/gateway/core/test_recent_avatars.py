from __future__ import annotations

from avatar_gateway.core.recent_avatars import MAX_AVATARS, MAX_NAME, MAX_PODS, RecentAvatars


def test_the_pods_of_an_avatar_are_remembered_the_last_used_first() -> None:
    recent = RecentAvatars()
    for pod in ("a", "b", "a", "c"):
        recent.add("acme/concierge", "anna", pod)
    assert recent.pods("acme/concierge", "anna") == ("c", "a", "b")
    assert recent.pods("acme/concierge", "ben") == ()
    assert recent.pods("acme/other", "anna") == ()


def test_the_memory_is_bounded() -> None:
    recent = RecentAvatars()
    for number in range(MAX_PODS + 1):
        recent.add("s", "kept", str(number))
    assert len(recent.pods("s", "kept")) == MAX_PODS
    for number in range(MAX_AVATARS):
        recent.add("s", str(number), "p")
    assert recent.pods("s", "kept") == ()
    assert recent.pods("s", "0") == ("p",)
    recent.add("s", "x" * (MAX_NAME + 1), "p")
    assert recent.pods("s", "x" * (MAX_NAME + 1)) == ()


def test_a_session_with_the_first_avatar_of_its_service_is_not_remembered() -> None:
    recent = RecentAvatars()
    recent.add("s", "", "p")
    assert recent.pods("s", "") == ()
