"""Runs the commands of a README in order, as a reader would, and compares their output with the README.

A fenced block ``sh`` or ``python`` is run. A block with a comment right before it is not, unless the comment is ``in
another terminal``: then it runs beside the others, until the end. A block ``text`` is the output of the block before it
or, with the comment ``in that terminal``, of the one in the other terminal: its lines in their order; ``…`` stands for
anything.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from clusterfolder import ROOT
from waiting import ENDS_WITH_US

ANOTHER, THAT = "in another terminal", "in that terminal"
_FENCE = re.compile(
    r"(?:^<!--(?P<comment>[^>]*)-->\n)?^```(?P<language>sh|python|text)\n(?P<code>.*?)^```$", re.M | re.S
)
_NOT_RUN = re.compile(r"not run here: (?P<why>.+); covered by: (?P<path>\S+)", re.S)
_SHOWN_SECONDS = 60.0
_RUN_SECONDS = 150.0


@dataclass(frozen=True)
class Block:
    """A fenced block; ``comment`` is the HTML comment right before it."""

    path: Path
    line: int
    comment: str
    language: str
    code: str

    @property
    def covered_by(self) -> str:
        """The path that covers a block that is not run; empty for a block that is run."""
        said = _NOT_RUN.fullmatch(self.comment)
        return said["path"] if said else ""

    @property
    def where(self) -> str:
        """The place of the block, for messages."""
        return f"{self.path.relative_to(ROOT)}, line {self.line}"

    def with_(self, old: str, new: str) -> Block:
        """Return the same block with another text in its code."""
        return replace(self, code=self.code.replace(old, new))


def blocks(path: Path) -> list[Block]:
    """Return all blocks that are commands or outputs."""
    text = path.read_text()
    return [
        Block(path, text.count("\n", 0, match.start("code")), (match["comment"] or "").strip(), *match.group(2, 3))
        for match in _FENCE.finditer(text)
    ]


def check_form(path: Path) -> None:
    """Check a page: blocks that are not run name a reason and a test, and other blocks contain no commands.

    Manifests must be YAML, and links must lead to files.
    """
    text = path.read_text()
    for block in blocks(path):
        if block.comment not in ("", ANOTHER, THAT):
            assert block.covered_by, f"{block.where}: {block.comment}"
            assert (ROOT / block.covered_by).exists(), f"{block.where}: no {block.covered_by}"
    fences = re.findall(r"^```(\w*)$", text, re.M)[::2]
    assert set(fences) <= {"sh", "python", "text", "yaml", ""}, fences
    for manifests in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S):
        assert all(isinstance(manifest, dict) for manifest in yaml.safe_load_all(manifests)), manifests
    assert sum(fence not in ("", "yaml") for fence in fences) == len(blocks(path))
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (path.parent / target).exists(), target


class Reader:
    """A shell that keeps its variables and its folder from block to block.

    ``folder`` holds the reader's own files. The blocks run in ``checkout``, each for at most ``seconds``.
    """

    def __init__(
        self, environment: Mapping[str, str], folder: Path, checkout: Path = ROOT, seconds: float = _RUN_SECONDS
    ) -> None:
        self._checkout, self._seconds = checkout, seconds
        self._state, self._other = folder / "state.sh", folder / "terminal"
        self._environment = {**environment, "STATE": str(self._state), "PYTHONUNBUFFERED": "1"}
        self._beside: list[subprocess.Popen[bytes]] = []
        self._state.write_text("")

    def read(self, block: Block, said: str) -> str:
        """Run the block, or compare it with ``said``, the output of the block before; return the block's own output."""
        if block.language == "text":
            if block.comment == THAT:
                self._await(block)
            else:
                shows(block, said)
        elif block.comment == ANOTHER:
            self._begin(block)
        elif not block.comment:
            return self.follow(block)
        return said

    def follow(self, block: Block) -> str:
        """Run the block and return its output."""
        command = f'source "$STATE"\n{block.code}\nexport -p > "$STATE"\n'
        if block.language == "python":
            command = 'source "$STATE"\nexec python -'
        answer = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            input=block.code if block.language == "python" else None,
            stdin=None if block.language == "python" else subprocess.DEVNULL,
            cwd=self._checkout,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self._seconds,
        )
        assert answer.returncode == 0, f"{block.where}:\n{block.code}\n{answer.stdout}"
        return answer.stdout

    def close(self) -> None:
        """End the processes in the other terminals."""
        for process in self._beside:
            process.send_signal(signal.SIGINT)
            process.wait()

    def _begin(self, block: Block) -> None:
        command = [*ENDS_WITH_US, "bash", "-euo", "pipefail", "-c", f'source "$STATE"\nexec {block.code.strip()}']
        with self._other.open("wb") as file:
            self._beside.append(
                subprocess.Popen(
                    command, cwd=self._checkout, env=self._environment, stdout=file, stderr=subprocess.STDOUT
                )
            )

    def _await(self, block: Block) -> None:
        """Wait until the other terminal shows the block."""
        deadline = time.monotonic() + _SHOWN_SECONDS
        while _missing(block, self._other.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        shows(block, self._other.read_text())


def shows(block: Block, said: str) -> None:
    """Raise AssertionError if a line of the block is not in ``said`` after the line before it."""
    missing = _missing(block, said)
    assert missing is None, f"{block.where}: {missing!r} is not in:\n{said}"


def _missing(block: Block, said: str) -> str | None:
    lines = iter(said.splitlines())
    for wanted in block.code.splitlines():
        # The width of a column depends on its contents.
        pattern = r"\s+".join(re.escape(word).replace("…", ".*") for word in wanted.split())
        if not any(re.fullmatch(rf"\s*{pattern}\s*", line) for line in lines):
            return wanted
    return None
