"""The histogram and the Event of starts."""

from __future__ import annotations

from avatar_operator import names
from avatar_operator.core.autoscaling.start_times import MAX_CLASSES, PodStart
from avatar_operator.core.status import service_status
from avatar_operator.metrics import Metrics


def test_the_histogram_has_stages_and_a_bounded_number_of_classes() -> None:
    metrics = Metrics()
    for number in range(MAX_CLASSES + 5):
        metrics.observe_start(PodStart("p", f"class-{number}", {"total": 3.0, "weights": 2.0}))
    lines = metrics.render().decode().splitlines()
    counts = [line for line in lines if line.startswith("avatar_operator_pod_start_seconds_count")]
    assert len(counts) == 2 * (MAX_CLASSES + 1)
    rest = 'avatar_operator_pod_start_seconds_count{gpu_class="(other)",stage="total"} 5.0'
    assert rest in counts


def test_one_event_describes_all_starts_of_a_reconcile() -> None:
    assert service_status.start_notices([]) == ()
    started = [PodStart("a", "l4", {"total": 3.0}), PodStart("b", "l4", {"total": 4.0})]
    (notice,) = service_status.start_notices(started)
    assert notice.reason is names.Reason.POD_STARTED
    assert notice.message == "2 pods started; the slowest: pod b started on l4 in 4.0 s"
    assert not notice.warning
