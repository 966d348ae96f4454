"""Where a request goes: to the child's active owner by the registry, here or on another member.

The owner is the entry with the role Active that does not wait and whose member reports it Running at that entry's
epoch; of several (ActiveActive) the first in registry order. Where there is none, the request waits for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from processhub.agent.children.child import Child
from processhub.agent.env import Environment
from processhub.agent.peers.link import PeerLink
from processhub.agent.problems import Problem
from processhub.agent.registry import lookup
from processhub.agent.registry.childwatch import RegistryWatch
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.agent.request import JSON, MovedError, Request, Response
from processhub.agent.requests.localtakeover import LocalTakeover
from processhub.agent.requests.queue import RequestQueue
from processhub.api.reasons import Role, State

log = logging.getLogger(__name__)
_AGAIN_SECONDS = 0.25  # between two looks at the registry where nothing in it changed
_HELD_SECONDS = 0.5  # an owner had the request for so long: what it did with the time does not count as waiting


class Starter(Protocol):
    """Looks up, or creates, a child that no slice names."""

    async def ensure(self, child_id: str) -> None:
        """Return once the child exists. Raises Problem: 404, or why it can't be started."""

    async def why(self, child_id: str) -> str:
        """What the API server says of a child that has no owner, as a clause; "" where nothing is known."""


class Router:
    """The requests that came to this member, from callers, from its children and from other members."""

    def __init__(
        self,
        env: Environment,
        slices: SliceWatcher,
        children: Mapping[str, Child],
        queue: RequestQueue,
        peers: PeerLink,
        starter: Starter,
        takeover: LocalTakeover,
    ) -> None:
        self._env, self._slices, self._children = env, slices, children
        self._queue, self._peers, self._starter, self._takeover = queue, peers, starter, takeover
        self.watch = RegistryWatch()
        self._leaving = False
        self._loop = asyncio.get_running_loop()
        # By id: messages that were taken here and go to their child's next owner, each with when it began to.
        self._following: dict[str, deque[tuple[float, Request]]] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}

    def leave(self) -> None:
        """This member ends: who waits here for an owner is sent to another member."""
        self._leaving = True
        self.watch.wake()

    def check_stays(self) -> None:
        """Raises Problem where this member ends: nothing is taken any more, and nothing waits."""
        if self._leaving:
            raise Problem(503, "not_ready", f"member {self._env.member} ends; ask another one")

    async def send(self, child_id: str, request: Request) -> Response:
        """The child's answer to a call; 202 once a cast is in its queue. Raises Problem."""
        if (before := self._followers.get(child_id)) is not None:
            await asyncio.wait((before,), timeout=self._queue.max_wait)
        answer, _ = await self._send(child_id, request)
        return answer

    async def delivered(self) -> None:
        """Return when no message is left that was taken here and goes to its child's next owner."""
        while self._followers:
            await asyncio.wait(self._followers.values())

    async def _send(self, child_id: str, request: Request, accepted_at: float | None = None) -> tuple[Response, str]:
        """The answer, and the member of the copy that was asked.

        ``accepted_at``: nobody else can send it any more, and it waits for an owner since then.
        """
        deadline = (self._loop.time() if accepted_at is None else accepted_at) + self._queue.max_wait
        with self.watch.on(child_id) as changed:
            while True:
                self._check_quorum()
                changed.clear()
                copies = self._copies(child_id)
                owner = self._takeover.takeover_of(child_id, copies) or _owner(copies)
                pause: float | None = None
                if not copies:
                    await self._starter.ensure(child_id)
                    pause = _AGAIN_SECONDS
                elif owner is not None:
                    began = self._loop.time()
                    answer = await self._offer(owner, child_id, request, changed)
                    if answer is not None:
                        return answer, owner.member
                    if owner.member != self._env.member and await self._takeover.take(child_id, owner):
                        continue
                    pause = _AGAIN_SECONDS
                    if self._loop.time() - began > _HELD_SECONDS:
                        deadline = self._loop.time() + self._queue.max_wait
                if accepted_at is None:
                    self.check_stays()
                left = deadline - self._loop.time()
                if left <= 0:
                    why = await self._starter.why(child_id)
                    raise Problem(
                        503,
                        "no_owner",
                        f"child {child_id!r} had no running owner for {self._queue.max_wait:g} s{why and ': ' + why}",
                    )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left if pause is None else min(pause, left)):
                        await changed.wait()

    async def send_to_all(self, child_id: str, request: Request) -> list[str]:
        """Have every running copy take a message; the members that did. Raises Problem where none did."""
        first = Request(request.kind, request.body, request.content_type, request.key)
        copies = [copy for copy in self._copies(child_id) if copy.running and not copy.wait]
        if not copies:
            # Nobody yet: it goes to the one that comes first.
            _, member = await self._send(child_id, first)
            return [member]
        took: list[str] = []
        problems: list[Problem] = []

        async def offer(copy: RoutedCopy) -> None:
            own = Request(request.kind, request.body, request.content_type, request.key)
            try:
                with self.watch.on(child_id) as changed:
                    if await self._offer(copy, child_id, own, changed, every=True) is not None:
                        took.append(copy.member)
            except Problem as problem:
                problems.append(problem)

        await asyncio.gather(*(offer(copy) for copy in copies))
        if not took:
            raise problems[0] if problems else Problem(503, "no_owner", f"no copy of child {child_id!r} took it")
        return sorted(took)

    async def serve_forwarded(self, child_id: str, epoch: int, request: Request) -> Response:
        """A request that another member routed here by this epoch. Raises Problem: 409 where it is another's."""
        child = self._children.get(child_id)
        desired = child.desired if child is not None else None
        stale = Problem(409, "stale_epoch", f"child {child_id!r} is not on {self._env.member} at epoch {epoch}")
        if desired is None or desired.assignment.epoch != epoch:
            raise stale
        try:
            if request.kind == "cast":
                return self._deliver(child_id, request)
            return await self._queue.serve(child_id, request)
        except MovedError:
            raise stale from None

    async def ask(self, operation: str, child_id: str, value: Any, to: str) -> dict[str, Any]:
        """What one of this member's actors asks: ``value``, or ``status``, ``code`` and ``detail``."""
        request = Request(operation, json.dumps(value, separators=(",", ":")).encode())
        try:
            if operation == "cast" and to == "all":
                return {"value": await self.send_to_all(child_id, request)}
            answer = await self.send(child_id, request)
        except Problem as problem:
            return _failure(problem.status, problem.kind, problem.detail, problem.retry_after)
        if answer.status >= 400:
            text = answer.body[:500].decode(errors="replace")
            return _failure(answer.status, "child_error", f"child {child_id!r} answered {answer.status}: {text}")
        if answer.content_type.partition(";")[0].strip() == JSON:
            with contextlib.suppress(ValueError):
                return {"value": json.loads(answer.body)}
        return {"value": answer.body.decode(errors="replace")}

    # inside

    def _check_quorum(self) -> None:
        """Raises Problem where the hub is partitioned: its children are stopped."""
        if self._slices.settings.partitioned:
            raise Problem(
                503,
                "partitioned",
                f"hub {self._env.hub} has lost its quorum: its children are stopped until enough members are live"
                " again",
            )

    def _copies(self, child_id: str) -> list[RoutedCopy]:
        """In registry order; of this member's own the state as it is now."""
        copies = lookup.copies(self._slices.registry(), child_id)
        child = self._children.get(child_id)
        state = child.state if child is not None and not child.stopping else State.STOPPING
        return [
            msgspec.structs.replace(copy, running=state == State.RUNNING) if copy.member == self._env.member else copy
            for copy in copies
        ]

    async def _offer(
        self, owner: RoutedCopy, child_id: str, request: Request, changed: asyncio.Event, *, every: bool = False
    ) -> Response | None:
        if owner.member == self._env.member:
            try:
                if request.kind == "cast":
                    return self._deliver(child_id, request)
                return await self._queue.serve(child_id, request)
            except MovedError:
                return None
        if not owner.running or not owner.address:
            return None

        def stands() -> bool:
            if self._leaving:
                return False
            copies = self._copies(child_id)
            instead = None if every else self._takeover.takeover_of(child_id, copies)
            named = next((copy for copy in copies if copy.member == owner.member), None) if every else _owner(copies)
            now = instead or named
            return now is not None and (now.member, now.epoch) == (owner.member, owner.epoch) and not lost()

        def lost() -> bool:
            return not every and self._takeover.offered and self._takeover.silent(owner)

        seconds = self._slices.settings.request_seconds
        watching = self._loop.create_task(self._takeover.watch(owner, changed)) if self._takeover.offered else None
        try:
            return await self._peers.forward(owner, child_id, request, seconds, changed, stands)
        except Problem as problem:
            if problem.status in (502, 504) and self._takeover.offered:
                self._takeover.unsettled(child_id, owner)
            raise
        except asyncio.CancelledError:
            if request.begun and self._takeover.offered:  # whoever asked has left, which ends nothing there
                self._takeover.unsettled(child_id, owner)
            raise
        finally:
            if watching is not None:
                watching.cancel()

    def _deliver(self, child_id: str, request: Request) -> Response:
        self._queue.deliver(child_id, request, lambda: self._send_after(child_id, request))
        return Response(202, b'{"accepted":true}')

    def _send_after(self, child_id: str, request: Request) -> None:
        """The child left before its turn came: a message that was accepted goes after it, behind those before it."""
        self._following.setdefault(child_id, deque()).append((self._loop.time(), request))
        if child_id not in self._followers:
            self._followers[child_id] = self._loop.create_task(self._follow(child_id))

    async def _follow(self, child_id: str) -> None:
        following = self._following[child_id]
        try:
            while following:
                accepted_at, request = following.popleft()
                try:
                    await self._send(child_id, request, accepted_at)
                except Problem as problem:
                    log.warning("a cast came to nothing: %s", problem.detail, extra={"child": child_id})
        finally:
            del self._following[child_id], self._followers[child_id]


def _owner(copies: list[RoutedCopy]) -> RoutedCopy | None:
    """The copy that is to be asked: the only active one, else the first running one of several."""
    active = [copy for copy in copies if copy.role == Role.ACTIVE and not copy.wait]
    if len(active) == 1:
        return active[0]
    return next((copy for copy in active if copy.running), None)


def _failure(status: int, code: str, detail: str, retry_after: int = 0) -> dict[str, Any]:
    return {"status": status, "code": code, "detail": detail, "retry_after": retry_after}
