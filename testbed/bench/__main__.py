"""``python -m bench``: measure, print a table, write JSON and the table into bench-results/.

Measure on an idle machine: control plane, operator, members and children share it with the measuring client.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import report
from bench.figures import FIGURES, MORE, Figure, chosen
from bench.lab import BenchError, Lab
from bench.measure import Outcome, Results, gathered, merged
from bench.page import PLOTS, page, reason
from bench.series import Series
from localcluster.faults import FaultRefusedError
from localcluster.layout import CHECKOUT, ClusterError
from localcluster.tools import KUBERNETES_VERSION, ToolError
from processhub.client.errors import HubError
from processhub.cluster.errors import ApiError

_RESULTS = CHECKOUT / "bench-results"
_DOCS = CHECKOUT / "docs"
_REASONS = Path(__file__).parent / "reasons.toml"
_EXPECTED = (BenchError, ClusterError, ToolError, FaultRefusedError, HubError, ApiError, AssertionError, TimeoutError)


async def _measure(figures: list[Figure], repeats: int, minutes: float) -> list[Outcome]:
    """Measure each figure once, and then again as often as it asks for and the time allows."""
    lab, began = Lab(), time.monotonic()
    series = Series([(figure.name, min(figure.repeats, repeats)) for figure in figures], minutes * 60)
    by_name = {figure.name: figure for figure in figures}
    try:
        while (name := series.next(time.monotonic() - began)) is not None:
            figure, begun = by_name[name], time.monotonic()
            print(f"{time.monotonic() - began:5.0f} s  {figure.title} …", file=sys.stderr, flush=True)
            try:
                series.note(name, await figure.run(lab), time.monotonic() - begun)
            except _EXPECTED as error:
                series.fail(name, f"{error or type(error).__name__}", time.monotonic() - begun)
    finally:
        await lab.close()
    return [
        Outcome(
            figure=figure.name,
            title=figure.title,
            values=figure.placed(gathered(series.runs[figure.name])),
            failed=series.failed.get(figure.name, ""),
            seconds=round(series.seconds[figure.name], 1),
        )
        for figure in figures
    ]


def _machine(begun: datetime, load: float) -> dict[str, str]:
    def said(*command: str) -> str:
        return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout.strip()

    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "measured": begun.strftime("%Y-%m-%d %H:%M UTC"),
        "commit": said("git", "rev-parse", "--short", "HEAD") + (" + changes" if said("git", "diff", "--stat") else ""),
        "machine": f"{os.cpu_count()} cores {model}, {round(memory / 2**20)} GiB",
        "load before": f"{load:.1f}",
        "Kubernetes": f"{KUBERNETES_VERSION}, etcd without fsync",
        "Python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="figures, by comma; a first word takes all of its kind: plan,start-1000"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each figure at most (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=18, help="no figure is measured again after that (default: %(default)s)"
    )
    parser.add_argument("--compare", type=Path, metavar="FILE", help="print the ratios to an earlier run's JSON")
    parser.add_argument("--results", type=Path, metavar="FILE", help="take an earlier run's JSON instead of measuring")
    parser.add_argument("--docs", action="store_true", help="also write docs/benchmarks.md; with --only the rest stays")
    parser.add_argument("--list", action="store_true", help="name the figures and end")
    return parser


def main() -> int:
    """The command line; 1 where a figure could not be measured, 0 also where a goal is missed."""
    arguments = _parser().parse_args()
    if arguments.list:
        print("\n".join(f"{figure.name:20} {figure.title}" for figure in FIGURES))
        print("\nOnly if named:\n" + "\n".join(f"{figure.name:20} {figure.title}" for figure in MORE))
        return 0
    try:
        before = _read(arguments.compare) if arguments.compare else None
        results = _read(arguments.results) if arguments.results else None
        figures = chosen(arguments.only)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if results is None:
        results = _measured(figures, max(1, arguments.repeats), arguments.minutes)
    print(report.text_table(results.outcomes))
    if before is not None:
        print(f"\n{report.comparison(before.outcomes, results.outcomes)}")
    if arguments.docs:
        some = bool(arguments.only) and not arguments.results
        write_docs(merged(_read(_DOCS / PLOTS / "results.json"), results) if some else results, _DOCS)
    return 1 if any(outcome.failed for outcome in results.outcomes) else 0


def _measured(figures: list[Figure], repeats: int, minutes: float) -> Results:
    begun, load = datetime.now(UTC), os.getloadavg()[0]
    if load > 1:
        print(f"note: the load is {load:.1f} before the start; figures of a busy machine say little", file=sys.stderr)
    outcomes = asyncio.run(_measure(figures, repeats, minutes))
    results = Results(machine=_machine(begun, load), outcomes=tuple(outcomes))
    _RESULTS.mkdir(exist_ok=True)
    stem = _RESULTS / begun.strftime("%Y%m%d-%H%M%S")
    stem.with_suffix(".json").write_bytes(_json(results))
    stem.with_suffix(".txt").write_text(report.text_table(outcomes) + "\n")
    print(f"written: {stem}.json, {stem}.txt", file=sys.stderr)
    return results


def _json(results: Results) -> bytes:
    return msgspec.json.format(msgspec.json.encode(results)) + b"\n"


def _read(path: Path) -> Results:
    """An earlier run. Raises OSError, ValueError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no result of `make bench`: {error}") from error


def write_docs(results: Results, docs: Path) -> None:
    """Write the page into this folder, and its plots and results into a folder there."""
    from bench import plots  # here, because to import what draws takes half a second

    reasons = {figure: why.strip() for figure, why in tomllib.loads(_REASONS.read_text()).items()}
    drawn = plots.draw_all(results.outcomes)
    folder = docs / PLOTS
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for topic, svg in drawn.items():
        (folder / f"{topic}.svg").write_bytes(svg)
    (docs / "benchmarks.md").write_text(page(results, drawn.keys(), reasons))
    (folder / "results.json").write_bytes(_json(results))
    print(f"written: {docs / 'benchmarks.md'}, {len(drawn)} plots in {folder}", file=sys.stderr)
    for outcome in results.outcomes:
        missed = any(value.met is False for value in outcome.values)
        if missed and not reason(outcome.figure, reasons):
            print(f"note: {outcome.figure} misses a goal; say why in {_REASONS}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
