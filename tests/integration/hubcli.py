"""``kubectl hub`` as its users type it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import commandforks
from livehub import Live


class Answer(NamedTuple):
    """The output and exit code of a command."""

    out: str
    err: str
    code: int

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The rows of the table without its header."""
        return [line.split() for line in self.out.splitlines()[1:]]


class Cli:
    """``kubectl hub`` in the product's namespace; HUB_NAME is the hub of commands that name none."""

    def __init__(self, product: Live, hub: str) -> None:
        self.product, self.hub = product, hub

    async def begin(self, *words: str, program: tuple[str, ...] = ("kubectl-hub",), **env: str) -> Any:
        """Start a command as users do, and return its process."""
        return await asyncio.create_subprocess_exec(
            *program,
            *words,
            env=self._environment(env),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, line: str, *more: str, stdin: str = "", **env: str) -> Answer:
        """Run the words of ``line``, followed by the arguments ``more``."""
        return Answer(*await commandforks.run([*line.split(" "), *more], self._environment(env), stdin))

    def _environment(self, env: Mapping[str, str]) -> dict[str, str]:
        defaults = {"HUB_NAMESPACE": self.product.namespace, "HUB_NAME": self.hub}
        return {**self.product.cluster.environment(), **defaults, **env}
