"""An event loop on a separate thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class LoopThread:
    """The loop and its thread, which ends with the process at the latest."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._name = name
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the thread was started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, begin: Callable[[], None]) -> None:
        """Start the thread, call ``begin`` there, and run the loop."""
        self._thread = threading.Thread(target=self._serve, args=(begin,), name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Call it on the loop."""
        self.loop.call_soon(self.loop.stop)

    def _serve(self, begin: Callable[[], None]) -> None:
        asyncio.set_event_loop(self.loop)
        begin()
        self.loop.run_forever()
