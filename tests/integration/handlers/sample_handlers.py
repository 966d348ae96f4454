"""Hook handlers that the operator runs in tests; with this folder on PYTHONPATH they count as an installed package."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def note(event: Json, args: Json) -> None:
    with Path(args["file"]).open("a") as file:
        file.write(json.dumps({"event": event, "thread": threading.current_thread().name}) + "\n")


async def note_later(event: Json, args: Json) -> None:
    await asyncio.sleep(0.01)
    note(event, args)


def broken(event: Json, args: Json) -> None:
    raise ValueError(f"no {args['what']} today")


def hangs(event: Json, args: Json) -> None:
    time.sleep(60)
