from __future__ import annotations

import pytest

from avatar_runtime.metrics import RECENT_S, Metrics


def test_the_load_covers_the_last_30_s() -> None:
    metrics = Metrics("cpu", "none")
    metrics.observe_batch(4, 8, 0.5, now=100.0)
    metrics.count_finished(True, now=100.0)
    metrics.count_finished(False, now=100.0)
    metrics.observe_first_frame(0.2, now=100.0)
    metrics.count_sent("drawn", 0.1, now=100.0)
    load = metrics.load(100.0)
    assert (load.batch_fill_ratio, load.deadline_miss_ratio) == (0.5, 0.5)
    assert (load.first_frame_p95_s, load.frame_p95_s) == (0.2, 0.1)
    assert load.busy_ratio == pytest.approx(0.5 / RECENT_S)
    later = metrics.load(100.1 + RECENT_S)
    assert (later.first_frame_p95_s, later.deadline_miss_ratio, later.busy_ratio) == (None, 0, 0)


def test_each_runtime_has_its_own_registry() -> None:
    one, two = Metrics("cpu", "none"), Metrics("cpu", "none")
    one.count_sent("silent", 0.1, now=1.0)
    assert b'avatar_runtime_frames_total{kind="silent"} 1.0' in one.render()
    assert b'avatar_runtime_frames_total{kind="silent"} 0.0' in two.render()
