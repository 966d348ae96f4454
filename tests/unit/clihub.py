"""A hub that runs in one thread, for verbs of the command line, and their output."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import virtualtime
from onethread import Cluster, running_hub

from processhub.cli import start
from processhub.cli.errors import DONE
from processhub.cli.shared import Output, Target
from processhub.cluster.client import Client

HUB = Target()
NAMES = Target(output=Output.NAME)
JSON = Target(output=Output.JSON)
YAML = Target(output=Output.YAML)
MEMBERS = ["hub-0", "hub-1", "hub-2"]


def with_cluster(
    folder: Path, patch: pytest.MonkeyPatch, test: Callable[[Cluster], Awaitable[None]], **spec: Any
) -> None:
    """Run the test beside a hub with this spec; every connection to a cluster goes to this one."""

    async def main() -> None:
        async with running_hub(folder, **spec) as cluster:

            async def connect(*_: object, **__: object) -> Client:
                return cluster.client("user")

            with patch.context() as patched:
                patched.setattr(Client, "connect", connect)
                patched.delenv("HUB_NAME", raising=False)
                await test(cluster)

    virtualtime.run(main())


async def started(*ids: str, pinned: bool = False) -> None:
    order = start.Order(ids=ids, exec=True, command=("x",), pinned=pinned)
    assert await start.start_children(order, HUB, on_failure="continue", wait=True, timeout="30s") == DONE


class Printed:
    """The output of the verbs since it was last read."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def text(self) -> str:
        read = self._capsys.readouterr()
        self.err = read.err
        return read.out

    def rows(self) -> list[list[str]]:
        """The cells of a table without its header."""
        return [line.split() for line in self.text().splitlines()[1:]]
