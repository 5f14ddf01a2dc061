from __future__ import annotations

from avatar_operator.core.cache.pdb_index import PdbIndex


def test_a_service_is_unprotected_when_its_last_correct_pdb_is_lost() -> None:
    index = PdbIndex()
    assert index.put("a", "s1") is None
    assert index.put("b", "s1") is None
    assert index.put("a", None) is None
    assert index.protects("s1")
    assert index.put("b", None) == "s1"
    assert not index.protects("s1")
    assert index.put("b", None) is None


def test_a_pdb_that_protects_another_service_now_leaves_the_first_one() -> None:
    index = PdbIndex()
    index.put("a", "s1")
    assert index.put("a", "s2") == "s1"
    assert (index.protects("s1"), index.protects("s2")) == (False, True)
    assert index.put("a", "s2") is None


def test_a_list_replaces_what_was_known() -> None:
    index = PdbIndex()
    index.put("a", "s1")
    index.replace({"b": "s2"})
    assert (index.protects("s1"), index.protects("s2")) == (False, True)


def test_a_deleted_service_is_forgotten() -> None:
    index = PdbIndex()
    index.put("a", "s1")
    index.forget("s1")
    index.forget("unknown")
    assert not index.protects("s1")
    assert index.put("a", None) is None
