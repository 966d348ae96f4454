"""The member's metrics as Prometheus reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from processhub.agent.metrics import COUNTERS, FAMILIES, GAUGES, Metrics


def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """The value of each sample, by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_prometheus_reads_what_was_counted() -> None:
    metrics = Metrics()
    elsewhere = dict.fromkeys(COUNTERS, lambda: 3) | dict.fromkeys(GAUGES, lambda: 4)
    metrics.observe(lambda: {"Running": 2, "Failed": 0}, elsewhere)
    metrics.child_restarted(None)
    metrics.count_write("failed")
    for status in (200, 200, 503):
        metrics.count_request("call", status)

    found = read(metrics)

    assert found["processhub_agent_child_restarts_total",] == 1
    assert found["processhub_agent_status_writes_total", "failed"] == 1
    assert found["processhub_agent_requests_total", "call", "200"] == 2
    assert found["processhub_agent_requests_total", "call", "503"] == 1
    assert found["processhub_agent_children", "Running"] == 2
    assert found["processhub_agent_children", "Failed"] == 0
    assert [found[name,] for name in COUNTERS] == [3] * len(COUNTERS)
    assert [found[name,] for name in GAUGES] == [4] * len(GAUGES)


def test_a_start_counts_in_each_bucket_that_it_fits_into() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.005, 0.006, 100.0):
        metrics.child_started(None, seconds)

    found, name = read(metrics), "processhub_agent_child_start_seconds"

    limits = ("0.002", "0.005", "0.01", "30.0", "+Inf")
    assert [found[f"{name}_bucket", limit] for limit in limits] == [1, 2, 3, 3, 4]
    assert (found[f"{name}_count",], found[f"{name}_sum",]) == (4, 100.012)


def test_each_metric_has_its_type_and_help() -> None:
    families = text_string_to_metric_families(Metrics().text().decode())

    known = {family.name: (family.type, family.documentation) for family in families}

    assert known == {name.removesuffix("_total"): family[:2] for name, family in FAMILIES.items()}
