"""Progress of a long job: one line a step, with its place in the whole and the seconds it took."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator


class Progress:
    """``[2/5] system images … 7 s`` on stderr, for ``steps`` steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Run one step; its seconds are printed if it succeeds."""
        self._done += 1
        print(f"[{self._done}/{self._steps}] {what} …", end=" ", file=sys.stderr, flush=True)
        begun = time.monotonic()
        try:
            yield
        except BaseException:
            print("failed", file=sys.stderr)
            raise
        print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
