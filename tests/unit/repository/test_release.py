"""``make release-dry-run``: what it makes, and when it refuses."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
from renderedchart import template

import release
import render_manifests

SAME = {"a": "1.2.0", "b": "1.2.0"}


def test_the_versions_of_this_commit_agree_and_it_has_changes() -> None:
    assert release.problem(release.versions(release.ROOT), (release.ROOT / "CHANGELOG.md").read_text()) == ""
    assert all(release.versions(release.ROOT).values())


@pytest.mark.parametrize(
    ("found", "changelog", "why"),
    [
        (SAME | {"b": "1.3.0"}, "## [1.2.0]\n\n- x\n", "the versions differ: a has 1.2.0, b has 1.3.0"),
        (SAME, "## [Unreleased]\n\n## [1.1.0]\n\n- x\n", "CHANGELOG.md has nothing under Unreleased or 1.2.0; "),
        (SAME, "## [1.2.0]\n\n- x\n", ""),
        (SAME, "## [Unreleased]\n\n- x\n", ""),
    ],
)
def test_differing_versions_and_an_empty_changelog_are_refused(found: dict[str, str], changelog: str, why: str) -> None:
    assert release.problem(found, changelog).startswith(why)
    assert bool(release.problem(found, changelog)) == bool(why)


def test_the_files_of_a_release_are_whole(tmp_path: Path) -> None:
    made = {path.name: path for path in release.build(tmp_path / "release")}

    version = release.versions(release.ROOT)["__version__"]
    wheel, chart = f"processhub-{version}-py3-none-any.whl", f"processhub-{version}.tgz"
    assert set(made) == {wheel, chart, "install.yaml", "SHA256SUMS"}
    with zipfile.ZipFile(made[wheel]) as archive:
        names = set(archive.namelist())
    modules = {path.relative_to(release.ROOT / "operator" / "src").as_posix() for path in sources()}
    assert modules <= names
    assert template(render_manifests.helm(), chart=made[chart]) == template(render_manifests.helm())
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "release", check=False)
    assert checked.returncode == 0


def sources() -> list[Path]:
    return list((release.ROOT / "operator" / "src" / "processhub").rglob("*.py"))
