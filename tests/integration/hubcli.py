"""``kubectl hub`` as its users type it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

from livehub import Live


class Answer(NamedTuple):
    """What a command said, and its exit code."""

    out: str
    err: str
    code: int

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The table's rows, its header left out."""
        return [line.split() for line in self.out.splitlines()[1:]]


class Cli:
    """``kubectl hub`` in the product's namespace, for a hub that need not be named (HUB_NAME)."""

    def __init__(self, product: Live, hub: str) -> None:
        self.product, self.hub = product, hub

    async def begin(self, *words: str, program: tuple[str, ...] = ("kubectl-hub",), **env: str) -> Any:
        """The process of a command."""
        defaults = {"HUB_NAMESPACE": self.product.namespace, "HUB_NAME": self.hub}
        environment = self.product.cluster.environment() | defaults | env
        return await asyncio.create_subprocess_exec(
            *program,
            *words,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, line: str, *more: str, stdin: str = "", **env: str) -> Answer:
        """Run ``line`` (parted by spaces) and ``more`` (as they are)."""
        process = await self.begin(*line.split(" "), *more, **env)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 90)
        return Answer(out.decode(), err.decode(), process.returncode)
