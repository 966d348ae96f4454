"""The benchmarks' arithmetic: medians, goals, tables, and the API server's counters."""

from __future__ import annotations

import pytest

from bench import figures, pure, report
from bench.lab import parse_writes
from bench.measure import Outcome, Point, Value, gathered, number, percentile, verdict


def seconds(*samples: float, goal: float | None = None) -> Value:
    return Value(name="took", unit="s", samples=samples, goal=goal)


def test_runs_are_grouped_by_name_and_shown_with_their_median() -> None:
    runs = [[seconds(3.0), Value(name="rate", unit="M/s", samples=(1.0,))], [seconds(1.0)], [seconds(2.0)]]

    took, rate = gathered(runs)

    assert took.samples == (3.0, 1.0, 2.0)
    assert took.median == 2.0
    assert rate.samples == (1.0,)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (seconds(1.5, goal=2.0), "≤ 2.00: met"),
        (seconds(2.6, goal=2.0), "≤ 2.00: missed by 30 %"),
        (seconds(2.0001, goal=2.0), "≤ 2.00: missed by 1 %"),
        (Value(name="rate", unit="", samples=(2.5,), goal=2.0, better="higher"), "≥ 2.00: met"),
        (Value(name="rate", unit="", samples=(1.5,), goal=2.0, better="higher"), "≥ 2.00: missed by 25 %"),
        (seconds(1.0), ""),
    ],
)
def test_the_verdict_shows_by_how_much_a_goal_is_missed(value: Value, said: str) -> None:
    assert verdict(value) == said


def test_a_percentile_is_the_nearest_rank() -> None:
    samples = [float(value) for value in range(100, 0, -1)]

    assert percentile(samples, 50) == 50
    assert percentile(samples, 99) == 99
    assert percentile([7.0], 99) == 7
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012345, "0.0123"), (1.046, "1.05"), (98.64, "98.6"), (123.4, "123"), (1236.0, "1,240")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_failed_figure_is_in_the_table_with_its_earlier_measurements() -> None:
    outcomes = [
        Outcome(figure="a", title="first", values=(seconds(3.0, goal=2.0),)),
        Outcome(figure="b", title="second", values=(seconds(1.0),), failed="run 2: no hub\nmore"),
    ]

    text = report.text_table(outcomes)

    assert "run 2: no hub" in text
    assert "1.00 s" in text


def test_of_many_trials_a_percentile_may_count() -> None:
    value = Value(name="took", unit="s", samples=tuple(float(number) for number in range(1, 21)), percent=95, goal=18.0)

    assert value.result == 19.0
    assert verdict(value) == "≤ 18.0: missed by 6 %"
    assert "19.0 s" in report.text_table([Outcome(figure="a", title="first", values=(value,))])


def test_figures_are_chosen_by_name_or_kind() -> None:
    names = [figure.name for figure in figures.chosen("start-1000,lookups")]

    assert names == ["lookups", "start-1000-python", "start-1000-exec"]
    assert len(figures.chosen("")) == len(figures.FIGURES)
    assert [figure.name for figure in figures.chosen("promote")] == ["promote-1000-python"], "one that is only named"
    with pytest.raises(ValueError, match="no figure 'start-10'; there are plan-"):
        figures.chosen("start-10")


def test_a_figure_places_its_values_that_name_no_place_themselves() -> None:
    async def run(_: object) -> list[Value]:
        return []

    point = Point(series="ours", x=64)
    figure = figures.Figure("calls", "calls", run, topic="calls", points={"rate": point})
    values = [
        Value(name="rate", unit="/s", samples=(1.0,)),
        seconds(1.0, goal=2.0),
        Value(name="moved", unit="", samples=(1.0,), topic="moves"),
    ]

    rate, took, moved = figure.placed(values)

    assert (rate.topic, rate.listed, rate.point) == ("calls", False, point)
    assert (took.topic, took.listed, took.point) == ("calls", True, None)
    assert (moved.topic, moved.listed) == ("moves", True)


def test_writes_are_counted_by_resource_without_renewals() -> None:
    text = "\n".join(
        [
            'apiserver_request_total{code="201",resource="children",subresource="",verb="POST"} 1000',
            'apiserver_request_total{code="409",resource="children",subresource="",verb="POST"} 2',
            'apiserver_request_total{code="200",resource="children",subresource="status",verb="PATCH"} 1e+03',
            'apiserver_request_total{code="200",resource="leases",subresource="",verb="PUT"} 77',
            'apiserver_request_total{code="200",resource="children",subresource="",verb="LIST"} 5',
        ]
    )

    assert parse_writes(text) == {"children": 1002, "children/status": 1000}


def test_look_ups_are_measured_on_a_registry_of_running_children() -> None:
    hub = pure.registry(2500)

    assert hub.get_pid("tenant/2499") == 4711
    assert hub.is_alive("tenant/0")
    assert len(hub.process_list()) == 2500


def test_moves_and_plans_are_measured_on_a_hub_with_placed_children() -> None:
    ratio, moved = pure.moves(count=3000, hubs=2, sizes=(3,))
    plans = pure.planning(1000, 3)()

    assert 0.8 < ratio.median < 1.2
    assert moved.median == pytest.approx(25 * ratio.median)
    assert [value.name for value in plans] == ["all new", "nothing to do", "a join", "a loss"]
