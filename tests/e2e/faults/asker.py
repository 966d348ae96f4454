"""Calls actors of several hubs in rounds, asks for their counts and records errors, until its pod is deleted.

python asker.py OUTPUT CHILDREN HUB...

CHILDREN are ids, separated by commas. Each line of OUTPUT is one round: the number of calls, the number that failed and
the message of the first failure.
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
    """Call the child; return the error's message, or an empty string."""
    try:
        await hub.call(child_id, {})
    except HubError as error:
        return f"{hub.name}/{child_id}: {type(error).__name__}: {error}"
    return ""


async def main(output: Path, children: Sequence[str], names: Sequence[str]) -> None:
    """Call each child of each hub once, one after the other."""
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
