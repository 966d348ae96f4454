"""Every command of the README, run in its order on a cluster of its own, as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from clusterfolder import ROOT, cluster_folder

README = (ROOT / "README.md").read_text()
_FENCE = re.compile(r"(?:^<!--(?P<comment>[^>]*)-->\n)?^```(?P<language>sh|python)\n(?P<code>.*?)^```$", re.M | re.S)
_NOT_RUN = re.compile(r"not run here: (?P<why>.+); covered by: (?P<path>\S+)", re.S)
_OF_THE_CALLER = ("KUBECONFIG", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH", "HUB_NAME", "HUB_NAMESPACE")


@dataclass(frozen=True)
class Block:
    """A fenced block of the README; ``comment`` is the HTML comment right before it."""

    line: int
    comment: str
    language: str
    code: str


BLOCKS = [
    Block(
        README.count("\n", 0, match.start("code")), (match["comment"] or "").strip(), match["language"], match["code"]
    )
    for match in _FENCE.finditer(README)
]
RUN = [block for block in BLOCKS if not block.comment]


class Reader:
    """A shell that goes on where the block before ended: its variables and its folder, the checkout."""

    def __init__(self, cluster: Path, state: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_CALLER}
        self._environment = {**kept, "LOCALCLUSTER_ROOT": str(cluster), "STATE": str(state)}
        state.write_text("")

    def follow(self, block: Block) -> str:
        """Run the block; what it said."""
        command = f'source "$STATE"\n{block.code}\nexport -p > "$STATE"\n'
        if block.language == "python":
            command = 'source "$STATE"\nexec python -'
        answer = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            input=block.code if block.language == "python" else None,
            stdin=None if block.language == "python" else subprocess.DEVNULL,
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=150,
        )
        assert answer.returncode == 0, f"README.md, line {block.line}:\n{block.code}\n{answer.stdout}"
        return answer.stdout


def test_a_block_that_is_not_run_says_why_and_what_covers_it() -> None:
    for block in BLOCKS:
        if block.comment:
            said = _NOT_RUN.fullmatch(block.comment)
            assert said, f"README.md, line {block.line}: {block.comment}"
            assert (ROOT / said["path"]).exists(), f"README.md, line {block.line}: no {said['path']}"


def test_no_command_hides_in_a_block_of_another_kind() -> None:
    fences = re.findall(r"^```(\w*)$", README, re.M)[::2]

    assert set(fences) <= {"sh", "python", ""}
    assert fences.count("sh") + fences.count("python") == len(BLOCKS)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target


@pytest.mark.timeout(400)
def test_all_blocks_work_one_after_the_other(tmp_path: Path) -> None:
    with cluster_folder() as folder:
        reader = Reader(folder, tmp_path / "state.sh")
        for block in RUN:
            said = reader.follow(block)

            if "kubectl hub where poller-1" in block.code:
                assert re.search(r"^poller-1 +shop-\d .* Running +\d+$", said, re.M), said
            if "kubectl hub plan --add 1" in block.code:
                assert "nothing was changed" in said
            if "kubectl hub members" in block.code:
                assert re.search(r"^shop-3 +True", said, re.M), said
