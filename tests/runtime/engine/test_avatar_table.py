"""Which version of an avatar a request gets while avatars are replaced and removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime.avatars import cache
from avatar_runtime.engine.avatar_table import AvatarTable

if TYPE_CHECKING:
    from collections.abc import Mapping


def avatar(name: str, content: str) -> cache.Avatar:
    manifest = cache.Manifest(
        model_version="v15", vae_hash="", fps=25, width=16, height=16, frames=1, crop_size=8
    )
    no_pixels, one_offset = np.zeros(0, np.uint8), np.zeros(2, np.int64)
    tensors: Mapping[str, object] = {
        "latents": np.zeros((1, 8, 1, 1), np.float16),
        "boxes": np.zeros((1, 4), np.int32),
        "crop_boxes": np.zeros((1, 4), np.int32),
        "masks": no_pixels,
        "mask_offsets": one_offset,
        "valid": np.ones(1, np.uint8),
        "pixels": no_pixels,
        "pixel_offsets": one_offset,
    }
    return cache.Avatar(name, manifest, content * 16, tensors)


OLD, NEW = avatar("anna", "0"), avatar("anna", "1")


def test_a_name_gives_the_current_version_and_a_key_its_own() -> None:
    table = AvatarTable({"anna": OLD})
    table.publish({"anna": NEW})

    assert table["anna"] is NEW
    assert table[OLD.info.key] is OLD
    assert table[NEW.info.key] is NEW
    assert table.infos() == {"anna": NEW.info}


def test_a_version_in_use_is_kept() -> None:
    table = AvatarTable({"anna": OLD})
    table.publish({"anna": NEW})

    for _ in range(3):
        assert table.drop_unused([OLD.info.key]) == []
    assert OLD.info.key in table


def test_an_unused_version_is_dropped_at_the_second_look() -> None:
    table = AvatarTable({"anna": OLD})
    table.publish({"anna": NEW})

    assert table.drop_unused([]) == []
    assert OLD.info.key in table
    assert table.drop_unused([]) == [OLD.info.key]
    assert OLD.info.key not in table
    assert len(table) == 1


def test_a_version_used_between_two_looks_is_looked_at_again_twice() -> None:
    table = AvatarTable({"anna": OLD})
    table.publish({"anna": NEW})

    assert table.drop_unused([]) == []
    assert table.drop_unused([OLD.info.key]) == []
    assert table.drop_unused([]) == []
    assert table.drop_unused([]) == [OLD.info.key]


def test_a_removed_avatar_has_no_name_but_its_key() -> None:
    table = AvatarTable({"anna": OLD})
    table.publish({})

    assert table[OLD.info.key] is OLD
    with pytest.raises(KeyError):
        table["anna"]
