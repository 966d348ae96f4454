"""Generates the chart's copy of the CRDs, and manifests/install.yaml.

``python hack/render_manifests.py`` writes them; ``--check`` writes nothing and exits 1 if one is not current. Helm
reads no file outside of a chart, so the chart has a copy of crds/.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "processhub"
NAMESPACE = "processhub-system"

_HEADER = f"""\
# ProcessHub for Kubernetes, all of it: kubectl apply -f install.yaml
# Rendered from charts/processhub by `make manifests`; do not edit.
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    app.kubernetes.io/name: processhub
    pod-security.kubernetes.io/enforce: restricted
"""
# Labels and comments that apply only to a Helm release.
_OF_HELM = re.compile(
    r"^(?: *(?:app\.kubernetes\.io/managed-by|app\.kubernetes\.io/instance|helm\.sh/chart): .*|# Source: .*)\n", re.M
)


def helm() -> str:
    """The path of helm, which is built if there is none."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "testbed")}
    answer = subprocess.run(
        [sys.executable, "-m", "localcluster.tools", "helm"],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return answer.stdout.split()[-1]


def render(*options: str) -> str:
    """The chart's manifests as text, without test hooks."""
    command = [helm(), "template", "processhub", str(CHART), "--namespace", NAMESPACE, "--no-hooks", *options]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def install_manifest() -> str:
    """The text of manifests/install.yaml."""
    # Deleting the manifest deletes the CRDs on purpose; only Helm respects the annotation "keep".
    return _HEADER + _OF_HELM.sub("", render("--set", "crds.keep=false"))


def write_if_changed(path: Path, text: str, *, check: bool) -> bool:
    """Write the file if its content changed; returns whether it was current already."""
    if path.exists() and path.read_text() == text:
        return True
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(f"{path.relative_to(ROOT)} {'is not current: run make manifests' if check else 'written'}")
    return False


def main() -> int:
    """Generate the files; returns 0 if all are current or were written, 1 if --check found a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is not current")
    check = bool(parser.parse_args().check)
    sources = {path.name: path.read_text() for path in sorted((ROOT / "crds").glob("*.yaml"))}
    copies = CHART / "files" / "crds"
    current = [write_if_changed(copies / name, text, check=check) for name, text in sources.items()]
    for stray in sorted(copies.glob("*.yaml")):
        if stray.name not in sources:
            print(f"{stray.relative_to(ROOT)} has no source in crds/{'' if check else ': removed'}")
            current.append(False)
            if not check:
                stray.unlink()
    current.append(write_if_changed(ROOT / "manifests" / "install.yaml", install_manifest(), check=check))
    return 0 if all(current) or not check else 1


if __name__ == "__main__":
    sys.exit(main())
