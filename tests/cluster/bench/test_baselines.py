"""Tests of the policies that ours is compared with, on the sequences that their formulas give."""

from __future__ import annotations

from localcluster.bench.baselines import HorizontalPodAutoscaler, KnativePodAutoscaler


def test_hpa_is_one_scrape_late_and_at_most_doubles() -> None:
    hpa = HorizontalPodAutoscaler(share=1.0)
    assert hpa.wanted(0, 10, pods=2, ready=2, per_pod=5) == 2
    assert hpa.wanted(15, 100, pods=2, ready=2, per_pod=5) == 2
    assert hpa.wanted(30, 100, pods=2, ready=2, per_pod=5) == 6
    assert hpa.wanted(45, 100, pods=6, ready=6, per_pod=5) == 12


def test_hpa_does_nothing_within_its_tolerance() -> None:
    hpa = HorizontalPodAutoscaler(share=1.0)
    assert [hpa.wanted(at, 21, 4, 4, 5) for at in (0, 15, 30)] == [4, 4, 4]


def test_hpa_scales_down_to_the_highest_recommendation_of_five_minutes() -> None:
    hpa = HorizontalPodAutoscaler(share=1.0)
    pods = [hpa.wanted(at, 20 if at < 60 else 5, 4, 4, 5) for at in range(0, 420, 15)]
    assert pods[:5] == [4] * 5
    assert pods[-1] == 1
    assert pods.index(1) * 15 == 360  # the last wish for four was at 60, a scrape late


def test_knative_panic_mode_only_scales_up() -> None:
    knative = KnativePodAutoscaler()
    for at in range(0, 60, 2):
        assert knative.wanted(at, 3, pods=1, ready=1, per_pod=5) == 1
    assert knative.wanted(60, 60, pods=1, ready=1, per_pod=5) == 7
    pods = [knative.wanted(at, 0, pods=7, ready=7, per_pod=5) for at in (62, 64, 66)]
    assert min(pods) >= 7


def test_knative_at_most_halves_when_it_scales_down() -> None:
    knative = KnativePodAutoscaler()
    assert knative.wanted(0, 0, pods=8, ready=8, per_pod=5) == 4
