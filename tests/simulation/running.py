"""Runs a scenario in virtual time, and returns its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from processhub.controller.observe import views

from .processes import SimulatedLoop
from .trace import Trace

Scenario = Callable[[int, Trace, Path], Awaitable[int]]  # called with the number of requests


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: virtual seconds, and the violation or ""."""

    seed: int
    seconds: float
    faults: int
    requests: int
    violation: str
    trace: tuple[str, ...]


def run(seed: int, scenario: Scenario) -> Outcome:
    """Run a scenario with a seed."""
    trace = Trace()
    logger = logging.getLogger("processhub")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(trace)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    random.seed(seed)
    places, views._PLACES_OF_MEMBER = views._PLACES_OF_MEMBER, 1  # so that few ids use up a member's share
    loop = SimulatedLoop()
    loop.set_exception_handler(
        lambda _, problem: trace.note("loop", f"{problem.get('message')}: {problem.get('exception')!r}")
    )
    gc.disable()

    async def whole(folder: Path) -> int:
        return await scenario(seed, trace, folder)

    try:
        with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
            requests = loop.run_until_complete(loop.apart(whole(Path(folder))))
            seconds = loop.time()
        # Before the loop is closed: what still waits then fails, and says nothing of the run.
        violation, lines = str(trace.violation or ""), tuple(trace.lines)
    finally:
        logger.removeHandler(trace)
        logger.setLevel(level)
        logger.propagate = propagates
        views._PLACES_OF_MEMBER = places
        _discard(loop)
        gc.enable()
    return Outcome(seed, seconds, trace.faults, requests, violation, lines)


def _discard(loop: SimulatedLoop) -> None:
    """Close the loop with all tasks that still wait: their processes are gone, and none ends in an orderly way."""
    loop.set_exception_handler(lambda *_: None)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what was never begun
            # While the loop is there: a failed story's traceback keeps what waits, also after the collection below.
            for task in asyncio.all_tasks(loop):
                with contextlib.suppress(Exception):
                    task.get_coro().close()
            loop.close()
            gc.collect()
    finally:
        sys.unraisablehook = hook
        logging.disable(logging.NOTSET)
