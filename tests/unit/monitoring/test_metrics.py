from __future__ import annotations

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from streamseg import __version__
from streamseg.monitoring.metrics import render
from streamseg.telemetry import BUCKETS_MS, PipelineStatistics, StageTimer
from tests.unit.monitoring.examples import running

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(statistics: PipelineStatistics) -> Samples:
    body = render(statistics)[1].decode()
    found: Samples = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice: Prometheus refuses the whole page"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"streamseg_{name}", tuple(sorted(labels.items()))]


def test_every_number_arrives() -> None:
    samples = scrape(running())

    assert value(samples, "frames_captured_total") == 2_200
    assert value(samples, "frames_delivered_total") == 2_160
    assert value(samples, "frames_dropped_total", cause="model_busy") == 30
    assert value(samples, "frames_dropped_total", cause="source_busy") == 8
    assert value(samples, "frames_in_flight") == 2
    assert value(samples, "frames_hidden_total") == 5
    assert value(samples, "frames_reused_total") == 7
    assert value(samples, "source_reconnects_total") == 2
    assert value(samples, "worker_restarts_total") == 1
    assert value(samples, "elapsed_seconds") == 73
    assert value(samples, "queue_depth", queue="record.mp4") == 3
    assert value(samples, "sink_frames_accepted_total", sink="display") == 2_160
    assert value(samples, "sink_frames_written_total", sink="display") == 2_150
    assert value(samples, "sink_frames_dropped_total", sink="display", cause="display_busy") == 10
    assert value(samples, "pipeline_info", version=__version__, effect="blur", model="selfie") == 1
    sinks = {dict(labels)["sink"] for name, labels in samples if name.endswith("sink_bytes_total")}
    assert len(sinks) == 1
    assert value(samples, "sink_bytes_total", sink=sinks.pop()) == 21_600_000


def test_histograms_are_cumulative_and_in_seconds() -> None:
    timer = StageTimer()
    for ms in (4.0, 5.0, 33.0, 59.0, 60.5, 99_000.0):
        timer.add(ms)
    samples = scrape(PipelineStatistics(stages={"total": timer.times()}))

    def up_to(bound: str) -> float:
        return value(samples, "stage_seconds_bucket", stage="total", le=bound)

    assert [up_to(le) for le in ("0.002", "0.005", "0.04", "0.06", "10.0", "+Inf")] == [
        0,
        2,
        3,
        4,
        5,
        6,
    ]
    assert value(samples, "stage_seconds_count", stage="total") == 6
    assert value(samples, "stage_seconds_sum", stage="total") == pytest.approx(99.1615)
    bounds = [labels for name, labels in samples if name == "streamseg_stage_seconds_bucket"]
    assert len(bounds) == len(BUCKETS_MS) + 1


def test_loop_lag_is_a_histogram_and_a_gauge() -> None:
    samples = scrape(running())
    assert value(samples, "loop_lag_seconds_count") == 2
    assert value(samples, "loop_lag_seconds_bucket", le="0.0002") == 1
    assert value(samples, "loop_lag_p99_seconds") == pytest.approx(0.01188, rel=0.01)


def test_before_anything_happened_counters_are_there_and_zero() -> None:
    samples = scrape(PipelineStatistics())
    for name in ("frames_captured_total", "frames_delivered_total", "loop_lag_seconds_count"):
        assert value(samples, name) == 0
    assert value(samples, "loop_lag_seconds_bucket", le="+Inf") == 0


def test_labels_hold_no_credentials_and_any_text() -> None:
    strange = 'a "quoted"\\ name\nof two lines'
    page = render(PipelineStatistics(queues={strange: 1}))[1].decode()
    assert page.count("streamseg_queue_depth{") == 1
    assert value(scrape(PipelineStatistics(queues={strange: 1})), "queue_depth", queue=strange) == 1
    assert b"geheim" not in render(running())[1]


def test_openmetrics_is_spoken_to_those_who_ask() -> None:
    content_type, body = render(running(), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics.text_string_to_metric_families(body.decode())}
    assert {"streamseg_frames_captured", "streamseg_stage_seconds"} <= names


def test_the_global_registry_is_left_alone() -> None:
    before = {metric.name for metric in REGISTRY.collect()}
    render(running())
    assert {metric.name for metric in REGISTRY.collect()} == before
    assert not any(name.startswith("streamseg") for name in before)
