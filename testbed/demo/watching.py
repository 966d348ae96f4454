"""A hub's registry, followed by watch: which member runs which child, and how long until that was so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from demo.stage import NotAsToldError
from processhub.api.reasons import State
from processhub.client.session import Session, connected, find_hub


@dataclass(frozen=True)
class Place:
    """The place of a child, as its member reports it."""

    member: str
    pid: int
    epoch: int


Places = dict[str, Place]


class Watch:
    """The registry of one hub, kept up to date in this process by a watch of its slices."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def places(self) -> Places:
        """The children that run, by id."""
        return {
            child_id: Place(record.nodes[0].name, record.nodes[0].pid, record.nodes[0].epoch)
            for child_id, record in sorted(self._session.registry.records.items())
            if record.nodes[0].state == State.RUNNING
        }

    async def until(self, right: Callable[[Places], bool], what: str, *, since: float, within: float) -> float:
        """The milliseconds from ``since`` (time.perf_counter) until the registry was right, seen as it changed.

        Raises NotAsToldError if that takes more than so many seconds.
        """
        done = asyncio.get_running_loop().create_future()

        def look(_: set[str]) -> None:
            if not done.done() and right(self.places()):
                done.set_result(time.perf_counter())

        unlisten = self._session.registry.listen(look)
        try:
            look(set())
            async with asyncio.timeout(within):
                at: float = await done
        except TimeoutError:
            raise NotAsToldError(f"{what}: not within {within:g} s; the registry says {self.places()}") from None
        finally:
            unlisten()
        return (at - since) * 1000


@asynccontextmanager
async def watching(hub: str, namespace: str, kubeconfig: str) -> AsyncIterator[Watch]:
    """Follow a hub's registry inside the block."""
    async with connected(namespace, None, kubeconfig) as (client, _):
        session = Session(client, namespace, await find_hub(client, namespace, hub))
        try:
            await session.follow()
            yield Watch(session)
        finally:
            await session.close()


def by_member(places: Places) -> dict[str, list[str]]:
    """Ids by member, both sorted."""
    grouped: dict[str, list[str]] = {}
    for child_id, place in sorted(places.items()):
        grouped.setdefault(place.member, []).append(child_id)
    return dict(sorted(grouped.items()))


def fullest(places: Places) -> tuple[str, list[str]]:
    """The member with most children, and their ids."""
    return max(by_member(places).items(), key=lambda pair: (len(pair[1]), pair[0]))
