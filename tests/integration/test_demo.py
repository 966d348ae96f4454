"""make demo on its own cluster. The demo checks what it prints, so its exit code is most of the test."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from clusterfolder import ROOT, cluster_folder


@pytest.mark.nightly
@pytest.mark.timeout(400)
def test_the_demo_passes_its_checks_in_plain_lines() -> None:
    with cluster_folder() as folder:
        answer = subprocess.run(
            [sys.executable, "-m", "demo", "--cluster", "local"],
            env={**os.environ, "LOCALCLUSTER_ROOT": str(folder), "PYTHONPATH": str(ROOT / "testbed")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=360,
        )

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "All checks of the demo passed" in answer.stdout.splitlines()[-1]
    assert len(re.findall(r"^\d\. ", answer.stdout, re.M)) == 6
    assert "\033" not in answer.stdout  # no colour where it is not a terminal
    ours = [line for line in answer.stdout.splitlines() if line.startswith(("=>", "   "))]
    assert max(map(len, ours)) <= 100
