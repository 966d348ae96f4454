"""How the shares of packages are computed from what coverage.py counts in files."""

from __future__ import annotations

from pathlib import Path

import pytest

import check_coverage
from check_coverage import ALL, PRODUCT


def summary(ran: int, lines: int, branches: int = 0, there: int = 0) -> dict[str, int]:
    return {"covered_lines": ran, "num_statements": lines, "covered_branches": branches, "num_branches": there}


FILES = [
    (PRODUCT / "core" / "model" / "a.py", summary(6, 6, 1, 2)),
    (PRODUCT / "core" / "b.py", summary(1, 2)),
    (PRODUCT / "cli" / "c.py", summary(0, 10)),
    (PRODUCT / "actor.py", summary(10, 10)),
]


def test_statements_and_branches_of_a_package_are_counted_together() -> None:
    found = {share.package: share.percent for share in check_coverage.shares(FILES, {})}

    assert found == {"core": 80.0, "cli": 0.0, ALL: 60.0}


def test_a_package_without_any_code_is_no_division_by_zero() -> None:
    (core, _) = sorted(check_coverage.shares([(PRODUCT / "core" / "__init__.py", summary(0, 0))], {}), reverse=True)

    assert (core.package, core.percent) == ("core", 0.0)


@pytest.mark.parametrize(("core", "passes"), [(80.0, True), (80.1, False)])
def test_a_share_below_its_bound_fails_the_check_and_is_named(
    core: float, passes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_coverage, "recorded", lambda: FILES)
    monkeypatch.setattr(check_coverage, "LEAST", {"core": core, ALL: 60.0})

    assert check_coverage.main() == (0 if passes else 1)

    told = capsys.readouterr()
    assert " 80.00 %" in told.out
    assert ("too little is tested of: core;" in told.err) is not passes


def test_a_run_that_recorded_nothing_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert check_coverage.main() == 2
    assert "nothing is recorded" in capsys.readouterr().err
