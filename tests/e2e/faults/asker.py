"""Asks actors of several hubs for their counts, round by round, and writes what went wrong; it ends with its pod.

    python asker.py OUTPUT CHILDREN HUB...

CHILDREN are ids with commas between. Each line of OUTPUT is one round: how many it asked, how many failed, the first
failure in words.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from processhub import Hub
from processhub.client.errors import HubError

_PAUSE_SECONDS = 0.2


async def ask(hub: Hub, child_id: str) -> str:
    """What went wrong, in words."""
    try:
        await hub.call(child_id, {})
    except HubError as error:
        return f"{hub.name}/{child_id}: {type(error).__name__}: {error}"
    return ""


async def main(output: Path, children: Sequence[str], names: Sequence[str]) -> None:
    """Ask each child of each hub, one round after the other."""
    async with contextlib.AsyncExitStack() as stack:
        hubs = [await stack.enter_async_context(Hub.connect(name)) for name in names]
        with output.open("a", buffering=1) as file:
            while True:
                answers = await asyncio.gather(*(ask(hub, child_id) for hub in hubs for child_id in children))
                failures = [answer for answer in answers if answer]
                file.write(f"{len(answers)} {len(failures)} {' '.join(failures[:1])}\n")
                await asyncio.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]))
