"""The page of the benchmarks, its plots and the ratios to an earlier run, by stored results."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from bench import __main__ as program
from bench import page, report
from bench.measure import Outcome, Results, Value, merged
from bench.peers import LINES
from bench.series import Series
from bench.topics import PARTS

STORED = Path(__file__).parent / "bench_results.json"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def results() -> Results:
    return msgspec.json.decode(STORED.read_bytes(), type=Results)


class Printed(NamedTuple):
    """What the program makes of the stored results: its exit status, what it prints, and the folder of the docs."""

    status: int
    said: str
    docs: Path


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Printed:
    docs, said = tmp_path_factory.mktemp("docs"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(program, "_DOCS", docs)
        patch.setattr(sys, "argv", ["bench", "--results", str(STORED), "--compare", str(STORED), "--docs"])
        status = program.main()
    return Printed(status, said.getvalue(), docs)


def texts(svg: bytes) -> list[str]:
    """The texts in a plot."""
    return ["".join(found.itertext()).strip() for found in ET.fromstring(svg).iter(f"{SVG}text")]


def draw(topic: str, outcomes: Sequence[Outcome]) -> bytes:
    from bench import plots  # here: each test process imports this module, and few draw

    (part,) = (part for part in PARTS if part.topic == topic)
    return plots.draw(part, outcomes)


def test_each_part_has_a_plot_with_its_axes_and_the_names_of_its_lines(printed: Printed) -> None:
    drawn = {file.stem: file.read_bytes() for file in printed.docs.glob("benchmarks/*.svg")}

    assert set(drawn) == {part.topic for part in PARTS}
    for part in PARTS:
        said = texts(drawn[part.topic])
        assert {part.x, part.y} <= set(said)
        assert {line.name for line in LINES if line.topic == part.topic} <= set(said)
    assert "ChildSet" in texts(drawn["starts"])
    assert {"own member", "64"} <= set(texts(drawn["calls"]))
    assert "ideal: 100 ÷ (members + 1)" in texts(drawn["moves"])
    assert {"leader killed", "goal: 95 % within 2 s"} <= set(texts(drawn["failover"]))


def test_the_same_results_give_the_same_plot(results: Results, printed: Printed) -> None:
    """Else each run of --docs would change all files."""
    assert draw("calls", results.outcomes) == (printed.docs / "benchmarks" / "calls.svg").read_bytes()


def test_a_part_without_anything_to_show_has_no_plot() -> None:
    assert draw("failover", []) == b""
    assert "Failover" not in page.page(Results(machine={}, outcomes=()), (), {})


def test_the_page_has_what_was_measured_what_is_missed_and_why(results: Results) -> None:
    text = page.page(results, ("failover",), {"start": "Two cores.", "failover": "A busy machine."})

    assert "| measured | 2026-11-29 12:00 UTC |" in text
    assert "| 1,000 python children by the client: ratio | 2.40 × | ≤ 1.50: missed by 60 % |" in text
    row = "the leader is lost: killed, until a new child runs, 95 % of 20 within"
    assert f"| {row} | 2.10 s | ≤ 2.00: missed by 5 % |" in text
    assert "![Failover: share of the trials, %, by seconds until the new child runs](benchmarks/failover.svg)" in text
    assert "starts.svg" not in text
    assert "ConsistentHashing" not in text, "a value that is only in the plot"
    missed = text.partition("## What is missed")[2].partition("## ")[0]
    assert "python children by the client: ratio 2.40 ×, goal ≤ 1.50: missed by 60 %.\n\nTwo cores." in missed
    assert "killed, until a new child runs 2.10 s, goal ≤ 2.00: missed by 5 %.\n\nA busy machine." in missed
    assert "- 1,000 children moved: not measured. run 1: no hub" in missed
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {3, 4}, "a row with a wrong number of cells"


def test_figures_that_are_measured_anew_are_told_apart_from_the_rest(results: Results) -> None:
    machine = {"measured": "2026-12-01 08:00 UTC", "commit": "def5678", "load before": "0.1"}
    took = Value(name="took", unit="s", samples=(1.0,), topic="moves")
    again = [Outcome(figure=name, title=name, values=(took,)) for name in ("handover-1000", "new")]

    both = merged(results, Results(machine=machine, outcomes=tuple(again)))

    assert [outcome.figure for outcome in both.outcomes] == [*(each.figure for each in results.outcomes), "new"]
    text = page.page(both, (), {})
    assert "- handover-1000: 2026-12-01 08:00 UTC, commit def5678, load before 0.1" in text
    assert "not measured" not in text
    assert "abc1234" in text
    assert "apart" not in page.page(results, (), {})


def test_a_reason_is_found_by_the_longest_beginning_of_the_figures_name() -> None:
    reasons = {"start": "all", "start-1000": "thousand", "start-10": "ten"}

    assert page.reason("start-1000-exec", reasons) == "thousand"
    assert page.reason("start-5000-exec", reasons) == "all"
    assert page.reason("starts", reasons) == ""


def test_two_runs_are_compared_by_ratios_that_say_what_is_better() -> None:
    def run(**values: Value) -> list[Outcome]:
        return [Outcome(figure=figure, title=figure, values=(value,)) for figure, value in values.items()]

    def value(sample: float, unit: str = "s", name: str = "took", **about: str) -> Value:
        return msgspec.convert({"name": name, "unit": unit, "samples": (sample,), **about}, Value)

    same = {"i": value(1.0, name="then")}, {"i": value(1.0, name="since")}
    earlier = {"a": value(10.0), "b": value(100.0, "/s", better="higher"), "c": value(1.0), "d": value(0.0)}
    later = {"a": value(5.0), "b": value(50.0, "/s", better="higher"), "c": value(1.05), "d": value(1.0)}
    before = run(**earlier, **same[0], e=value(1.0), g=value(1.0))
    now = run(**later, **same[1], f=value(1.0))

    lines = [line.split() for line in report.comparison(before, now).splitlines()]

    assert ["a", "took", "10.0", "s", "5.00", "s", "0.500", "better"] in lines
    assert ["b", "took", "100", "/s", "50.0", "/s", "0.500", "worse"] in lines
    assert ["c", "took", "1.00", "s", "1.05", "s", "1.05"] in lines
    assert ["d", "took", "0", "s", "1.00", "s"] in lines
    assert [line for line in lines if "only" in line] == [
        ["only", "before:", "e,", "g"],
        ["only", "before:", "i,", "then"],
        ["only", "now:", "f"],
        ["only", "now:", "i,", "since"],
    ]


def test_stored_results_are_printed_compared_and_drawn_without_measuring(printed: Printed) -> None:
    said = printed.said

    assert printed.status == 1, "a figure of it failed"
    assert re.search(r"failover +killed, until a new child runs +2.10 s +1.10 to 3.60, 20 times", said)
    assert re.search(r"activation +three members, 64 +3,600 /s +3,600 /s +1.00", said)
    shown = re.findall(r"\((benchmarks/\w+\.svg)\)", (printed.docs / "benchmarks.md").read_text())
    assert len(shown) == len(PARTS)
    assert all((printed.docs / name).is_file() for name in shown)
    assert program._read(printed.docs / "benchmarks" / "results.json") == program._read(STORED)


@pytest.mark.parametrize("text", ["", "[]", '{"outcomes": []}'])
def test_a_file_that_is_no_result_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["bench", "--compare", str(tmp_path / "a.json")])

    assert program.main() == 2
    assert "a.json is no result of `make bench`" in capsys.readouterr().err


def test_figures_are_measured_once_each_and_then_again_while_there_is_time() -> None:
    series, passed, order = Series([("long", 3), ("short", 3), ("once", 1), ("bad", 3)], 100), 0.0, list[str]()

    while (name := series.next(passed)) is not None:
        order.append(name)
        seconds = {"long": 40.0}.get(name, 5.0)
        passed += seconds
        if name == "bad":
            series.fail(name, "no hub", seconds)
        else:
            series.note(name, [Value(name="took", unit="s", samples=(seconds,))], seconds)

    # After 55 s the long one is repeated, after 95 s it is not; the short one still has time then.
    assert order == ["long", "short", "once", "bad", "long", "short"]
    assert series.failed == {"bad": "run 1: no hub"}
    assert series.seconds == {"long": 80.0, "short": 10.0, "once": 5.0, "bad": 5.0}
