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
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import report
from bench.figures import FIGURES, Figure, chosen
from bench.lab import BenchError, Lab
from bench.measure import Outcome, gathered
from localcluster.faults import FaultRefusedError
from localcluster.layout import CHECKOUT, ClusterError
from localcluster.tools import KUBERNETES_VERSION, ToolError
from processhub.client.errors import HubError
from processhub.cluster.errors import ApiError

_RESULTS = CHECKOUT / "bench-results"
_DOCS = CHECKOUT / "docs"
_NOTES = Path(__file__).parent / "notes.md"
_EXPECTED = (BenchError, ClusterError, ToolError, FaultRefusedError, HubError, ApiError, AssertionError, TimeoutError)


async def _measure(figures: list[Figure], repeats: int) -> list[Outcome]:
    lab, outcomes = Lab(), []
    try:
        for figure in figures:
            outcome = await _one(lab, figure, repeats)
            outcomes.append(outcome)
            print(report.text_table([outcome]).split("\n", 1)[1], flush=True)
    finally:
        await lab.close()
    return outcomes


async def _one(lab: Lab, figure: Figure, repeats: int) -> Outcome:
    """Measure one figure; return its outcome, with what was measured before a failure."""
    runs, failed, begun = [], "", time.monotonic()
    for repeat in range(1, repeats + 1):
        if sys.stderr.isatty():
            print(f"{figure.name}, run {repeat} of {repeats} …", end="\r", file=sys.stderr, flush=True)
        try:
            runs.append(await figure.run(lab))
        except _EXPECTED as error:
            failed = f"run {repeat}: {error or type(error).__name__}"
            break
    return Outcome(
        figure=figure.name,
        title=figure.title,
        values=gathered(runs),
        failed=failed,
        seconds=round(time.monotonic() - begun, 1),
    )


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


def main() -> int:
    """The command line; returns 1 if a figure could not be measured, 0 also if a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="figures, by comma; a first word takes all of its kind: plan,start-1000"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each figure (default: %(default)s)")
    parser.add_argument("--docs", action="store_true", help="also write docs/benchmarks.md")
    parser.add_argument("--list", action="store_true", help="name the figures and end")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{figure.name:20} {figure.title}" for figure in FIGURES))
        return 0
    try:
        figures = chosen(arguments.only)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    begun, load = datetime.now(UTC), os.getloadavg()[0]
    if load > 1:
        print(f"note: the load is {load:.1f} before the start; figures of a busy machine say little", file=sys.stderr)
    outcomes = asyncio.run(_measure(figures, max(1, arguments.repeats)))
    machine = _machine(begun, load)
    _RESULTS.mkdir(exist_ok=True)
    stem = _RESULTS / begun.strftime("%Y%m%d-%H%M%S")
    results = {"machine": machine, "repeats": arguments.repeats, "outcomes": outcomes}
    stem.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    stem.with_suffix(".txt").write_text(report.text_table(outcomes) + "\n")
    print(f"\nwritten: {stem}.json, {stem}.txt")
    if arguments.docs:
        notes = _NOTES.read_text() if _NOTES.exists() else ""
        (_DOCS / "benchmarks.md").write_text(report.markdown(outcomes, machine, "make bench BENCH=--docs", notes))
        print(f"written: {_DOCS / 'benchmarks.md'}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
