"""The output of the demo: a command as a user would type it, its real output, a sentence that explains it."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from collections.abc import Mapping

_WIDTH = 96
_BOLD, _DIM, _GREEN, _OFF = "\033[1m", "\033[2m", "\033[32m", "\033[0m"


class NotAsToldError(Exception):
    """A check of the story failed; the message names what is different and where to look."""


class Stage:
    """Prints; runs commands with the environment given. Colour only on a terminal, and not with NO_COLOR."""

    def __init__(self, environment: Mapping[str, str], folder: str) -> None:
        self._environment = {**environment, "COLUMNS": str(_WIDTH)}
        self._folder = folder
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._chapter = 0

    def chapter(self, title: str) -> None:
        """Begin the next part."""
        self._chapter += 1
        self._print(f"\n{self._styled(_BOLD, f'{self._chapter}. {title}')}")

    def means(self, sentence: str) -> None:
        """Print the meaning of the output above."""
        mark = self._styled(_GREEN, "=>")
        self._print(f"{mark} " + textwrap.fill(sentence, _WIDTH - 3, subsequent_indent="   "))

    def type(self, command: str) -> None:
        """Show a command without running it; the caller does its work."""
        self._print(f"{self._styled(_BOLD, '$')} {self._styled(_BOLD, command)}")

    async def run(self, command: str, *, fails: bool = False, head: int = 0) -> str:
        """Show a command, run it by bash, show its output (with ``head`` only so many lines) and return it.

        Raises NotAsToldError if its exit code is not as expected (not 0 with ``fails``).
        """
        self.type(command)
        code, output = await self._execute(command)
        lines = output.splitlines()
        for line in lines[:head] if head else lines:
            self._print(self._styled(_DIM, line))
        if head and len(lines) > head:
            self._print(self._styled(_DIM, f"… {len(lines) - head} more lines"))
        if (code != 0) != fails:
            raise NotAsToldError(f"the command above ended with code {code}")
        return output

    async def quietly(self, command: str) -> str:
        """Run a command without showing it and return its output. Raises NotAsToldError with its output if it fails."""
        code, output = await self._execute(command)
        if code != 0:
            raise NotAsToldError(f"{command}: {output.strip()}")
        return output

    async def _execute(self, command: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-o", "pipefail", "-c", command),
            env=self._environment,
            cwd=self._folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace")

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_OFF}" if self._colour else text

    def _print(self, text: str) -> None:
        print(text, flush=True)
