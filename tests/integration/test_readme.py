"""Every command of the README, run in its order on a cluster of its own, as a reader would."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from clusterfolder import ROOT, cluster_folder
from readmes import Reader, blocks, check_form

README = ROOT / "README.md"
_OF_THE_CALLER = ("KUBECONFIG", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH", "HUB_NAME", "HUB_NAMESPACE")


def test_all_blocks_are_run_or_say_why_not_and_links_lead_somewhere() -> None:
    check_form(README)


@pytest.mark.timeout(400)
def test_all_blocks_work_one_after_the_other(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_CALLER}
    with cluster_folder() as folder:
        reader = Reader({**environment, "LOCALCLUSTER_ROOT": str(folder)}, tmp_path)
        for block in blocks(README):
            said = reader.read(block, "")

            if "kubectl hub where poller-1" in block.code:
                assert re.search(r"^poller-1 +shop-\d .* Running +\d+$", said, re.M), said
            if "kubectl hub plan --add 1" in block.code:
                assert "nothing was changed" in said
            if "kubectl hub members" in block.code:
                assert re.search(r"^shop-3 +True", said, re.M), said
