"""No unit test leaves work behind, which would run on beside the tests after it and fail in them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

UNIT = Path(__file__).parent


class _Troubles(logging.Handler):
    """What asyncio has to say of tasks and callbacks: errors that nobody has seen, tasks that nobody has awaited."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the unit test, or a later one, of which asyncio logs an error; where it has a loop, end its tasks."""
    if UNIT not in request.path.parents:
        yield
        return
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("tasks_ended")
    troubles, log = _Troubles(), logging.getLogger("asyncio")
    log.addHandler(troubles)
    yield
    log.removeHandler(troubles)
    assert not troubles.texts, "\n".join(["of this test, or of one before it:", *troubles.texts])


@pytest.fixture
async def tasks_ended() -> AsyncIterator[None]:
    """Cancel at the end what runs on, as the end of a program does: all tests share one loop."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        _, lasting = await asyncio.wait(left, timeout=10)
        assert not lasting, "they do not end when they are cancelled"
