"""What the status remembers is read back as it was written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.planning.avatars import memory
from avatar_operator.core.planning.avatars.memory import Failure, Memory, Prepared
from avatar_operator.core.resources.preparation import Report
from avatar_operator.names import Reason

WORDS = st.text(min_size=1, max_size=20)
PREPARED = st.builds(
    Prepared, WORDS, WORDS, st.integers(0, 9999), st.just("640x480"), WORDS, st.just("2026")
)
FAILURES = st.builds(
    Failure,
    WORDS,
    st.integers(0, 11),
    st.integers(1, 2**31).map(float),
    st.sampled_from([Reason.JOB_FAILED, Reason.SOURCE_REFUSED, Reason.JOB_TIMED_OUT]),
    WORDS,
    st.booleans(),
)
REPORTS = st.builds(
    Report, WORDS, WORDS, st.integers(0, 9), st.integers(0, 9), st.lists(WORDS).map(tuple)
)
MEMORIES = st.builds(
    Memory,
    st.none() | PREPARED,
    st.none() | FAILURES,
    st.none() | REPORTS,
    st.sampled_from(["", "cpu", "l4"]),
    st.sampled_from(["", "anna-prepare-0"]),
)


@given(MEMORIES)
def test_the_memory_is_read_back(found: Memory) -> None:
    assert memory.read(memory.write(found)) == found


@given(st.dictionaries(st.sampled_from(["contentHash", "failure", "report", "frames"]), WORDS))
def test_a_status_of_someone_else_is_no_error(status: dict[str, object]) -> None:
    memory.read(status)
