"""Every command of the README and of the pages that continue it, run in order as a reader would."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from clusterfolder import ROOT, cluster_folder
from readmes import Reader, blocks, check_form

# The pages in their order; the last one removes everything.
PAGES = tuple(ROOT / name for name in ("README.md", "docs/operations.md", "docs/quick-start.md"))
_OF_THE_CALLER = ("KUBECONFIG", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH", "HUB_NAME", "HUB_NAMESPACE")
# Conditions on outputs, by a part of their block.
_SHOWN = {
    "kubectl get hubs,children": r"^hub\.processhub\.dev/shop ",
    "kubectl hub where poller-1": r"^poller-1 +shop-\d .* Running +\d+$",
    "kubectl hub plan --add 1": r"nothing was changed",
    "curl -sS": r'^\d+\{"id": ?"counter"',
    "kubectl hub members": r"^shop-3 +True",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_blocks_are_run_or_name_a_reason_and_links_lead_to_files(page: Path) -> None:
    check_form(page)


@pytest.mark.timeout(400)
def test_all_blocks_succeed_one_after_the_other(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_CALLER}
    looked_at = set()
    with cluster_folder() as folder:
        reader = Reader({**environment, "LOCALCLUSTER_ROOT": str(folder)}, tmp_path)
        for block in (block for page in PAGES for block in blocks(page)):
            said = reader.read(block, "")

            for command, shown in _SHOWN.items():
                if command in block.code:
                    assert re.search(shown, said, re.M), said
                    looked_at.add(command)
    assert looked_at == _SHOWN.keys()
