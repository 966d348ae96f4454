"""Makes the files of a release in ``.local/release``, and publishes nothing: ``make release-dry-run``.

It exits 1 with a sentence if the versions of package, chart and image differ, or the changelog has nothing to release.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

import render_manifests

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / ".local" / "release"


def versions(root: Path) -> dict[str, str]:
    """The version by the place where it is written."""
    package, chart = root / "operator", root / "charts" / "processhub" / "Chart.yaml"
    source = (package / "src" / "processhub" / "__init__.py").read_text()
    described = yaml.safe_load(chart.read_text())
    images = set(re.findall(r"image: \"?processhub:([^\s\"]+)", (root / "manifests" / "install.yaml").read_text()))
    return {
        "operator/pyproject.toml": tomllib.loads((package / "pyproject.toml").read_text())["project"]["version"],
        "__version__": "".join(re.findall(r'^__version__ = "(.+)"$', source, re.M)),
        "version of Chart.yaml": str(described["version"]),
        "appVersion of Chart.yaml": str(described["appVersion"]),
        "image of manifests/install.yaml": ", ".join(sorted(images)),
    }


def problem(found: dict[str, str], changelog: str) -> str:
    """Why this can't be released, as a sentence; "" if it can."""
    if len(set(found.values())) > 1:
        return "the versions differ: " + ", ".join(f"{place} has {version}" for place, version in found.items())
    (version,) = set(found.values())
    sections = re.split(r"^## ", changelog, flags=re.M)[1:]
    if not any(section.startswith(("[Unreleased]", f"[{version}]")) and "\n- " in section for section in sections):
        return f"CHANGELOG.md has nothing under Unreleased or {version}; write there what users notice"
    return ""


def build(target: Path) -> list[Path]:
    """Make the files anew; returns them, sorted."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    # With the packages of .venv, so that the index is not asked.
    package = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    with tempfile.TemporaryDirectory() as folder:
        # A copy: setuptools builds in the folder, and takes along what an earlier build has left there.
        copy = shutil.copytree(
            ROOT / "operator",
            Path(folder) / "operator",
            ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"),
        )
        subprocess.run([*package, "--wheel-dir", str(target), str(copy)], check=True)
    chart = [render_manifests.helm(), "package", "--destination", str(target), str(ROOT / "charts" / "processhub")]
    subprocess.run(chart, check=True, stdout=subprocess.DEVNULL)
    shutil.copy(ROOT / "manifests" / "install.yaml", target)
    made = sorted(target.iterdir())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made]
    (target / "SHA256SUMS").write_text("".join(sums))
    return [*made, target / "SHA256SUMS"]


def main() -> int:
    """Check and build; prints the files."""
    found = versions(ROOT)
    if why := problem(found, (ROOT / "CHANGELOG.md").read_text()):
        print(why, file=sys.stderr)
        return 1
    for path in build(TARGET):
        print(path.relative_to(ROOT))
    print(f"version {found['__version__']}; nothing was published")
    return 0


if __name__ == "__main__":
    sys.exit(main())
