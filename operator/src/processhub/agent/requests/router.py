"""Routing of requests: to the child's active owner by the registry, on this member or on another.

The owner is the copy whose entry has the role Active and does not wait, and whose member reports it Running at that
entry's epoch. If there are several (ActiveActive), it is the first of them in registry order. If there is none, the
request waits for one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from processhub.agent.children.child import Child
from processhub.agent.env import Environment
from processhub.agent.listeners import Signal
from processhub.agent.peers.link import Forwarding, PeerLink, UnreachableError
from processhub.agent.problems import Problem
from processhub.agent.registry import lookup
from processhub.agent.registry.childwatch import RegistryWatch
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.agent.request import JSON, MovedError, Request, Response, WithdrawnError
from processhub.agent.requests.activation import BY_VIEW, Activations
from processhub.agent.requests.asks import Asks
from processhub.agent.requests.castorder import OF_NO_RUN, CastOrder
from processhub.agent.requests.localtakeover import LocalTakeover
from processhub.agent.requests.ondemand import UnplacedIds
from processhub.agent.requests.queue import RequestQueue
from processhub.api.naming import is_child_id
from processhub.api.reasons import Role, State
from processhub.cluster.tasks import wait_for_event

_AGAIN_SECONDS = 0.25  # between two checks of the registry while nothing in it changes
_HELD_SECONDS = 0.5  # time that a request spent at an owner does not count as waiting if it was longer than this

T = TypeVar("T")


class Router:
    """Routes the requests that came to this member from callers, from its children and from other members."""

    def __init__(
        self,
        env: Environment,
        slices: SliceWatcher,
        children: Mapping[str, Child],
        queue: RequestQueue,
        peers: PeerLink,
        unplaced: UnplacedIds,
        takeover: LocalTakeover,
        activations: Activations,
        asks: Asks,
    ) -> None:
        self._env, self._slices, self._children = env, slices, children
        self._queue, self._peers, self._unplaced, self._takeover = queue, peers, unplaced, takeover
        self._activations, self._asks = activations, asks
        self.watch = RegistryWatch(slices.registry, slices.named.has_entry)
        self._order = CastOrder(
            peers, lambda child_id: bool(self.watch.copies(child_id)), takeover.silent, lambda: queue.max_wait
        )
        self._leaving = False
        self._loop = asyncio.get_running_loop()
        # By id: casts that were accepted here and go to the child's next owner, each with the time since when.
        self._following: dict[str, deque[tuple[float, Request]]] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}

    def leave(self) -> None:
        """Send callers that wait here for an owner to another member: this member is shutting down."""
        self._leaving = True
        self.watch.wake()

    def check_stays(self) -> None:
        """Raise Problem if this member is shutting down: no request is accepted or waits any more."""
        if self._leaving:
            raise Problem(
                503, "not_ready", f"member {self._env.member} is shutting down; send the request to another member"
            )

    async def send(self, child_id: str, request: Request) -> Response:
        """Route a request; returns the child's answer to a call, or 202 once a cast is queued. Raises Problem."""
        if (before := self._followers.get(child_id)) is not None:
            await asyncio.wait((before,), timeout=self._queue.max_wait)
        answer, _ = await self._send(child_id, request)
        return answer

    async def delivered(self) -> None:
        """Return when all casts that were accepted here have reached their child's next owner."""
        while self._followers:
            await asyncio.wait(self._followers.values())

    async def _send(self, child_id: str, request: Request, accepted_at: float | None = None) -> tuple[Response, str]:
        """Route a request; returns the answer, and the member whose copy gave it.

        ``accepted_at``: the loop's time at which a cast was accepted here, whose sender will not send it again.
        """
        if child_id not in self._order and (answer := await self._serve_here(child_id, request)) is not None:
            return answer, self._env.member

        async def offer(owner: RoutedCopy, changed: Signal) -> Response | None:
            if accepted_at is None:
                await self._order.before(child_id, owner)
            answer = await self._offer(owner, child_id, request, changed)
            if answer is not None and request.kind == "cast" and owner.member != self._env.member:
                self._order.took(child_id, owner)
            return answer

        return await self.route(child_id, offer, accepted_at)

    async def route(
        self,
        child_id: str,
        offer: Callable[[RoutedCopy, Signal], Awaitable[T | None]],
        accepted_at: float | None = None,
    ) -> tuple[T, str]:
        """Offer a request to the child's owners, one after the other, until one takes it.

        ``offer(owner, changed)`` returns the answer, or None if the owner does not have the child (any more). It raises
        UnreachableError if nothing was sent. Returns the answer, and the owner's member. Raises Problem.
        """
        deadline = (self._loop.time() if accepted_at is None else accepted_at) + self._queue.max_wait
        pause: float | None
        with self.watch.on(child_id) as changed, self._asks.ask(child_id) as ask:
            while True:
                self._check_quorum()
                changed.clear()
                copies = self._copies(child_id)
                owner = self._owner(child_id, copies)
                unreached, pause = "", None
                self.watch.set_unowned(changed, not copies and (owner is None or owner.epoch == BY_VIEW))
                if owner is None and not copies:
                    await self._unplaced.expect(child_id, ask)
                    pause = _AGAIN_SECONDS
                else:
                    ask.withdraw()
                if owner is not None:
                    began = self._loop.time()
                    try:
                        answer = await offer(owner, changed)
                    except UnreachableError as error:
                        answer, unreached = None, str(error)
                    if answer is not None:
                        return answer, owner.member
                    if owner.member != self._env.member and await self._takeover.take(child_id, owner):
                        continue
                    pause = _AGAIN_SECONDS
                    if not unreached and self._loop.time() - began > _HELD_SECONDS:
                        deadline = self._loop.time() + self._queue.max_wait
                if accepted_at is None:
                    self.check_stays()
                left = deadline - self._loop.time()
                if left <= 0:
                    raise await self._too_late(child_id, unreached)
                await wait_for_event(changed, left if pause is None else min(pause, left))

    async def _serve_here(self, child_id: str, request: Request) -> Response | None:
        """Serve the request if the only copy is this member's; None if it has to be routed.

        Most requests need no more than this. Whatever it leaves open is decided again when the request is routed.
        """
        copies = self.watch.copies(child_id)
        if len(copies) != 1 or copies[0].member != self._env.member or self._takeover.offered:
            return None
        self._check_quorum()
        return await self._take(child_id, request) if _owner(copies) else None

    async def _too_late(self, child_id: str, unreached: str) -> Problem:
        """The answer to a request that has waited too long. ``unreached``: why its owner can't be reached, or ""."""
        if unreached:
            where = "is on record there" if self._copies(child_id) else "is to be started there"
            return Problem(503, "unreachable", f"{unreached}; child {child_id!r} {where}")
        why = await self._unplaced.why(child_id)
        waited = f"child {child_id!r} had no running owner for {self._queue.max_wait:g} s"
        return Problem(503, "no_owner", f"{waited}: {why}" if why else waited)

    async def send_to_all(self, child_id: str, request: Request) -> list[str]:
        """Send a cast to every running copy; returns the members that took it. Raises Problem if none did."""
        first = request.copy()
        copies = [copy for copy in self._copies(child_id) if copy.running and not copy.wait]
        if not copies:
            # No copy runs yet: the cast goes to the first that does.
            _, member = await self._send(child_id, first)
            return [member]
        took: list[str] = []
        problems: list[Problem] = []

        async def offer(copy: RoutedCopy) -> None:
            own = request.copy()
            try:
                with self.watch.on(child_id) as changed:
                    if await self._offer(copy, child_id, own, changed, every=True) is not None:
                        took.append(copy.member)
            except Problem as problem:
                problems.append(problem)
            except UnreachableError as error:
                problems.append(Problem(503, "unreachable", str(error)))

        await asyncio.gather(*(offer(copy) for copy in copies))
        if not took:
            raise problems[0] if problems else Problem(503, "no_owner", f"no copy of child {child_id!r} took it")
        return sorted(took)

    async def serve_forwarded(self, child_id: str, epoch: int, request: Request) -> Response:
        """Serve a request that another member routed here by this epoch.

        Raises Problem: 409 if this member does not own the child at that epoch.
        """
        if epoch == OF_NO_RUN:
            await self._left(child_id)
        else:
            self.check_stays()
        if epoch == BY_VIEW:
            epoch = await self.epoch_here(child_id, request.put_off)
        with contextlib.suppress(MovedError):
            if request.kind == "cast" and self._is_here(child_id, epoch):
                try:
                    await request.content()  # whoever has forwarded it keeps it no longer once it is accepted
                except WithdrawnError as error:
                    what = "the body of a cast that a member forwarded did not come"
                    raise Problem(400, "bad_request", what) from error
            if self._is_here(child_id, epoch):
                if request.kind == "cast":
                    return self._deliver(child_id, request)
                return await self._queue.serve(child_id, request)
        raise Problem(409, "stale_epoch", f"child {child_id!r} is not on {self._env.member} at epoch {epoch}")

    def _is_here(self, child_id: str, epoch: int) -> bool:
        """Whether this member is to run the child at that epoch."""
        child = self._children.get(child_id)
        return child is not None and child.desired is not None and child.desired.assignment.epoch == epoch

    async def epoch_here(self, child_id: str, put_off: Callable[[], None] = lambda: None) -> int:
        """The epoch of the child that this member runs, or starts by itself now; BY_VIEW if there is none.

        What keeps this member from a start may be over within moments: another version of a slice is to be read.
        ``put_off()`` is called before each wait for that.
        """
        until = self._loop.time() + _AGAIN_SECONDS
        with self.watch.on(child_id) as changed, self._asks.ask(child_id) as ask:
            self.watch.set_unowned(changed, True)
            while True:
                changed.clear()
                copies = self._copies(child_id)
                owner = self._owner(child_id, copies)
                if owner is not None or copies:
                    here = owner is not None and owner.member == self._env.member
                    return owner.epoch if owner is not None and here else BY_VIEW
                self._activations.check_room(child_id)
                if self._activations.asks_for_own(child_id):
                    ask.make()
                left = until - self._loop.time()
                if left <= 0 or self._leaving:
                    return BY_VIEW
                put_off()
                await wait_for_event(changed, left)

    async def ask(self, operation: str, child_id: str, body: bytes, to: str) -> dict[str, Any]:
        """Send the request (JSON) of an actor here, or look something up for it: ``where``, ``tagged`` or ``members``.

        Returns the answer as ``payload``, and whether it is JSON; or ``status``, ``code`` and ``detail``.
        """
        if operation not in ("call", "cast"):
            return {"payload": msgspec.json.encode(self._look_up(operation, child_id)), "json": True}
        request = Request(operation, body)
        try:
            if operation == "cast" and to == "all":
                return {"payload": msgspec.json.encode(await self.send_to_all(child_id, request)), "json": True}
            answer = await self.send(child_id, request)
        except Problem as problem:
            return _failure(problem.status, problem.kind, problem.detail, problem.retry_after)
        if answer.status >= 400:
            text = answer.body[:500].decode(errors="replace")
            return _failure(answer.status, "child_error", f"child {child_id!r} answered {answer.status}: {text}")
        return {"payload": answer.body, "json": answer.content_type.partition(";")[0].strip() == JSON}

    # Internal.

    def _look_up(self, operation: str, subject: str) -> list[Any]:
        """What the registry has: the copies of a child, the ids of the children with a tag, or the members."""
        registry = self._slices.registry()
        if operation == "where":
            entry = lookup.child(registry, subject)
            return entry["nodes"] if entry is not None else []
        if operation == "tagged":
            return [entry["id"] for entry in lookup.children(registry, tags=[subject] if subject else ())]
        return lookup.members(registry)

    def _check_quorum(self) -> None:
        """Raise Problem if the hub is partitioned, because its children are stopped then."""
        if self._slices.settings.partitioned:
            raise Problem(
                503,
                "partitioned",
                f"hub {self._env.hub} has lost its quorum: its children are stopped until enough members are live"
                " again",
            )

    def _copies(self, child_id: str) -> list[RoutedCopy]:
        """The child's copies in registry order. This member's own copy has its present state."""
        copies = self.watch.copies(child_id)
        if not any(copy.member == self._env.member for copy in copies):
            return copies
        child = self._children.get(child_id)
        state = child.status.state if child is not None and not child.stopping else State.STOPPING
        return [
            msgspec.structs.replace(copy, running=state == State.RUNNING) if copy.member == self._env.member else copy
            for copy in copies
        ]

    def _owner(self, child_id: str, copies: list[RoutedCopy]) -> RoutedCopy | None:
        """The copy that gets the request. A child that no slice names is started by the member whose it is.

        Raises Problem if the text can be no id.
        """
        if not copies:
            _check_id(child_id)
            return self._activations.find_or_start(child_id)
        return self._takeover.takeover_of(child_id, copies) or _owner(copies)

    async def _offer(
        self, owner: RoutedCopy, child_id: str, request: Request, changed: Signal, *, every: bool = False
    ) -> Response | None:
        if owner.member == self._env.member:
            return await self._take(child_id, request)
        if not owner.running or not owner.address:
            return None

        def stands() -> bool:
            if self._leaving:
                return False
            copies = self._copies(child_id)
            if every:
                now = next((copy for copy in copies if copy.member == owner.member), None)
            else:
                now = self._owner(child_id, copies)
            if now is None or now.member != owner.member or lost():
                return False
            # What was to be started there may have come on record since, as it runs.
            return owner.epoch in (now.epoch, BY_VIEW)

        def lost() -> bool:
            return not every and self._takeover.offered and self._takeover.silent(owner)

        seconds = self._slices.settings.request_seconds
        watching = self._loop.create_task(self._takeover.watch(owner, changed)) if self._takeover.offered else None
        try:
            return await self._peers.forward(Forwarding(owner, child_id, request, seconds, changed, stands))
        except Problem as problem:
            if problem.status in (502, 504) and self._takeover.offered:
                self._takeover.unsettled(child_id, owner)
            raise
        except asyncio.CancelledError:
            # The caller has gone, which does not end the request at the owner.
            if request.begun and self._takeover.offered:
                self._takeover.unsettled(child_id, owner)
            raise
        finally:
            if watching is not None:
                watching.cancel()

    async def _take(self, child_id: str, request: Request) -> Response | None:
        """Serve the request on this member; None if the child is not this member's."""
        try:
            if request.kind == "cast":
                return self._deliver(child_id, request)
            return await self._queue.serve(child_id, request)
        except MovedError:
            return None

    def _deliver(self, child_id: str, request: Request) -> Response:
        self._queue.deliver(child_id, request, lambda: self._send_after(child_id, request))
        return Response(202, b'{"accepted":true}')

    def _send_after(self, child_id: str, request: Request) -> None:
        """Send an accepted cast to the child's next owner, in order: the child left before the cast's turn."""
        self._following.setdefault(child_id, deque()).append((self._loop.time(), request))
        if child_id not in self._followers:
            self._followers[child_id] = self._loop.create_task(self._follow(child_id))

    async def _left(self, child_id: str) -> None:
        """Return when the casts that were accepted here were handed over, or have reached the child's next owner."""
        await self._queue.casts_left(child_id)
        if (following := self._followers.get(child_id)) is not None:
            await asyncio.wait((following,))

    async def _follow(self, child_id: str) -> None:
        following = self._following[child_id]
        try:
            while following:
                accepted_at, request = following.popleft()
                try:
                    await self._send(child_id, request, accepted_at)
                except Problem as problem:
                    self._queue.cast_failed(child_id, problem.detail)
        finally:
            del self._following[child_id], self._followers[child_id]


def _check_id(child_id: str) -> None:
    """Raise Problem if this can be no child's id. A status that names it would be rejected with all that it reports."""
    if not is_child_id(child_id):
        what = "the id must be 1 to 253 bytes of UTF-8 without control characters"
        raise Problem(400, "bad_request", what)


def _owner(copies: list[RoutedCopy]) -> RoutedCopy | None:
    """The copy that gets the request: the only active one, or the first of several that runs. None if there is none."""
    active = [copy for copy in copies if copy.role == Role.ACTIVE and not copy.wait]
    if len(active) == 1:
        return active[0]
    return next((copy for copy in active if copy.running), None)


def _failure(status: int, code: str, detail: str, retry_after: int = 0) -> dict[str, Any]:
    return {"status": status, "code": code, "detail": detail, "retry_after": retry_after}
