"""Tests of reading boxes from pickles that a stranger may have written."""

from __future__ import annotations

import os
import pickle
import pickletools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_runtime import errors
from avatar_runtime.preparation import restricted_pickle

if TYPE_CHECKING:
    from pathlib import Path


class _Runs:
    """A pickle that would call a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __repr__(self) -> str:
        return f"{self._call[0].__name__}{self._call[1]}"

    def __reduce__(self) -> Any:
        return self._call


def _read(path: Path, data: bytes) -> list[tuple[int, int, int, int]]:
    (path / "coords.pkl").write_bytes(data)
    return restricted_pickle.read_boxes(path / "coords.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "kind", [int, np.int32, np.int64, np.float32, np.float64, np.uint8], ids=lambda k: k.__name__
)
def test_boxes_of_numbers_are_read(tmp_path: Path, protocol: int, kind: Any) -> None:
    boxes = [(kind(10), kind(20), kind(30), kind(41)), [kind(1), 2, 3.0, 4]]
    data = pickle.dumps(boxes, protocol)
    assert _read(tmp_path, data) == [(10, 20, 30, 41), (1, 2, 3, 4)]


def test_big_endian_numbers_are_read(tmp_path: Path) -> None:
    value = np.array([258], ">i4")[0]
    data = pickle.dumps([(value, value, value, value)])
    assert _read(tmp_path, data) == [(258, 258, 258, 258)]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (_Runs(os.mkdir, "made"), "mkdir"),
        ([_Runs(eval, "1")], "eval"),
        ([_Runs(np.load, "x")], "numpy"),
        ({"a": 1}, "instruction EMPTY_DICT"),
        ([np.zeros(4)], "numpy"),
        ([(1, 2, 3)], "entry 0 is a tuple, must be four numbers"),
        ([(1, 2, 3, 4), "abcd"], "entry 1 is a str"),
        ([(1, 2, 3, "4")], "entry 0 has a str"),
        ([(1, 2, 3, 1 << 40)], "entry 0 has a int, must be pixel positions"),
        ([(1, 2, 3, float("nan"))], "entry 0 has a float"),
        ((1, 2), "it has a tuple, must have a list"),
        ([(np.datetime64("2020"),) * 4], "type 'M8'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_anything_else_is_refused_by_name(
    tmp_path: Path, value: Any, fault: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fault = fault.replace("EMPTY_DICT", "DICT") if protocol == 0 else fault
    with pytest.raises(errors.AssetError) as raised:
        _read(tmp_path, pickle.dumps(value, protocol))
    assert "not a list of boxes" in str(raised.value)
    assert fault in str(raised.value) or protocol == 0
    assert not (tmp_path / "made").exists()


def test_a_huge_memo_index_is_refused(tmp_path: Path) -> None:
    data = b"\x80\x02]r\xff\xff\xff\x7f."
    assert [op.name for op, *_ in pickletools.genops(data)][2] == "LONG_BINPUT"
    with pytest.raises(errors.AssetError, match="under the number 2147483647"):
        _read(tmp_path, data)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "coords.pkl").open("wb") as file:
        file.truncate(restricted_pickle.MAX_BYTES + 1)
    with pytest.raises(errors.AssetError, match="the limit is 67108864"):
        restricted_pickle.read_boxes(tmp_path / "coords.pkl")


_GOOD = pickle.dumps([(1, 2, 3, 4), (np.int32(5), np.int64(6), 7, 8)] * 3)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(_GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_a_damaged_pickle_gives_boxes_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]]
) -> None:
    data = bytearray(_GOOD)
    for at, value in edits:
        data[at] = value
    try:
        boxes = _read(tmp_path_factory.getbasetemp(), bytes(data))
    except errors.AssetError:
        return
    assert all(len(box) == 4 for box in boxes)
