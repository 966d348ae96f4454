"""Computes how much of the product the tests of a run executed, and compares it with bounds.

``python hack/check_coverage.py`` reads what ``pytest --cov`` has recorded, prints the share of each package and exits 1
if one is below its bound, so that none gets worse. A bound is raised when the share has grown. A share is what
coverage.py reports with ``branch = true``: statements and branches together.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from coverage import Coverage
from coverage.exceptions import CoverageException

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ROOT / "operator" / "src" / "processhub"
ALL = "all"
# In percent. The unit tests alone must reach it. The decisions and the registry are pure, so nearly all of them can be
# tested there; a process that a test kills, and a pod of a cluster, leave no record.
LEAST = {"core": 98.0, "registry": 98.0, ALL: 85.0}


class Share(NamedTuple):
    """The share of a package that was executed."""

    package: str
    percent: float
    least: float | None

    @property
    def holds(self) -> bool:
        """Whether the share is within the bound."""
        return self.least is None or self.percent >= self.least

    def __str__(self) -> str:
        """A line of the table."""
        bound = "" if self.least is None else f"≥ {self.least:.1f} %"
        return f"{self.percent:6.2f} %  {bound:8}  {self.package}"


def shares(files: Iterable[tuple[Path, Mapping[str, int]]], least: Mapping[str, float]) -> list[Share]:
    """The shares of the packages by name, and of all; a module beside the packages counts only with all.

    ``files`` are paths with the counts that coverage.py gives of each in ``summary`` of its JSON report.
    """
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for path, summary in files:
        first, *inner = path.relative_to(PRODUCT).parts
        for package in (first, ALL) if inner else (ALL,):
            totals[package]["there"] += summary["num_statements"] + summary["num_branches"]
            totals[package]["ran"] += summary["covered_lines"] + summary["covered_branches"]
    return [
        Share(package, 100 * total["ran"] / (total["there"] or 1), least.get(package))
        for package, total in sorted(totals.items())
    ]


def recorded() -> list[tuple[Path, Mapping[str, int]]]:
    """The counts that the last run recorded of each file of the product, also of files that nothing imported."""
    coverage = Coverage(config_file=str(ROOT / "pyproject.toml"))
    coverage.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coverage.json")
        coverage.json_report(outfile=str(path))
        report = json.loads(path.read_text())
    return [(ROOT / name, found["summary"]) for name, found in report["files"].items()]


def main() -> int:
    """Print the shares; returns 1 if one is too small, 2 if nothing is recorded, else 0."""
    try:
        found = shares(recorded(), LEAST)
    except CoverageException as error:
        print(f"nothing is recorded: {error}", file=sys.stderr)
        return 2
    for share in found:
        print(share)
    short = [share.package for share in found if not share.holds]
    if short:
        print(f"too little is tested of: {', '.join(short)}; `coverage report -m` lists the lines", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
