"""The order of one sender's casts while their child moves from one member to another.

A member that forwards casts to a child's owner does not know which of them still wait there. When the child moves, the
former owner sends those to the next one, and the member knows the next one, too:

    sender → this member → former owner:  casts 1 to 9; then the child moves, and 5 to 9 follow it
    sender → this member → next owner:    cast 10

So before this member sends anything to the next owner, it asks the former one whether those casts have left: by a cast
with the epoch of no run, which any member rejects as out of date. The former owner does so after they have left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from processhub.agent.listeners import Signal
from processhub.agent.peers.link import Forwarding, PeerLink, UnreachableError
from processhub.agent.problems import Problem
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.request import Request

OF_NO_RUN = -1  # an epoch that no run has: the request asks whether the casts before it have left
_LOOK_SECONDS = 1.0  # how long the former owner may take before it is checked whether it answers at all
_REMEMBERED_MAX = 1000


class CastOrder:
    """Remembers which member took the last cast of each child that was forwarded there.

    ``on_record(child_id)`` says whether a slice names the child. ``silent(owner)`` says whether its member failed to
    answer just now. ``max_wait()`` is the seconds that a request waits.
    """

    def __init__(
        self,
        peers: PeerLink,
        on_record: Callable[[str], bool],
        silent: Callable[[RoutedCopy], bool],
        max_wait: Callable[[], float],
    ) -> None:
        self._peers, self._on_record, self._silent, self._max_wait = peers, on_record, silent, max_wait
        self._took: dict[str, RoutedCopy] = {}  # by id
        self._asking: dict[str, asyncio.Task[None]] = {}  # by id
        self._full = _REMEMBERED_MAX
        self._loop = asyncio.get_running_loop()

    def __contains__(self, child_id: str) -> bool:
        return child_id in self._took

    def took(self, child_id: str, owner: RoutedCopy) -> None:
        """Record that the owner, which is another member, has accepted a cast."""
        if child_id not in self._took and len(self._took) >= self._full:
            self._took = {known: copy for known, copy in self._took.items() if self._on_record(known)}
            self._full = max(_REMEMBERED_MAX, 2 * len(self._took))
        self._took[child_id] = owner

    async def before(self, child_id: str, owner: RoutedCopy) -> None:
        """Return when nothing that was forwarded to an earlier owner than this one waits there any more.

        A former owner that has no connection to this member, or does not answer, is not waited for.
        """
        former = self._took.get(child_id)
        if former is None or former.member == owner.member:
            return
        asking = self._asking.get(child_id)
        if asking is None:
            asking = self._asking[child_id] = self._loop.create_task(self._left(child_id, former))
            asking.add_done_callback(lambda _: self._settled(child_id, former))
        await asyncio.wait((asking,))

    def _settled(self, child_id: str, former: RoutedCopy) -> None:
        del self._asking[child_id]
        if self._took.get(child_id) is former:
            del self._took[child_id]

    async def _left(self, child_id: str, former: RoutedCopy) -> None:
        if self._silent(former) or not self._peers.connected(former.address):
            return  # its casts came on a connection that broke, and it may have ended with them
        max_wait = self._max_wait()
        until = self._loop.time() + max_wait
        asked = self._loop.create_task(self._ask(child_id, former, max_wait))
        try:
            while not asked.done() and self._loop.time() < until:
                await asyncio.wait((asked,), timeout=_LOOK_SECONDS)
                if not asked.done() and not await self._peers.answers(former.address):
                    return
        finally:
            asked.cancel()

    async def _ask(self, child_id: str, former: RoutedCopy, seconds: float) -> None:
        owner = msgspec.structs.replace(former, epoch=OF_NO_RUN)
        question = Forwarding(owner, child_id, Request("cast", b"null"), seconds, Signal(), lambda: True)
        with contextlib.suppress(Problem, UnreachableError):
            await self._peers.forward(question)
