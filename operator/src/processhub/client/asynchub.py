"""The asynchronous client of one hub. Look-ups are local; every change is a request to the API server.

``hub.Hub`` adds the ways to connect. ``sync.SyncHub`` wraps the client for callers without an event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from processhub.client import moves
from processhub.client.errors import ChildrenFailed, HubError, Partitioned, Timeout, names
from processhub.client.hooks import cancel, parse_hooks, register
from processhub.client.moves import DrainResult
from processhub.client.records import Processes, Spec
from processhub.client.registry import Registry
from processhub.client.requests import Requests
from processhub.client.results import Result, StopResult
from processhub.client.session import Session, connected, find_hub, translated
from processhub.client.specs import ChildLike, checked_ids, prepare
from processhub.client.start import OnFailure, StartCall
from processhub.client.stop import stop_children
from processhub.client.waiting import Start
from processhub.methods import handle_of

if TYPE_CHECKING:
    from processhub.actor import Actor

A = TypeVar("A", bound="Actor")


class AsyncHub:
    """The client of a hub's children: start, stop, wait for, look up and ask them. Enter it by ``async with``."""

    def __init__(
        self,
        name: str | None = None,
        namespace: str | None = None,
        context: str | None = None,
        kubeconfig: str | None = None,
    ) -> None:
        if name is None and (name := os.environ.get("HUB_NAME")) is None:
            raise HubError("name the hub: HUB_NAME is not set, so this is no child of one")
        self.name = name
        self._where = (namespace, context, kubeconfig)
        self._stack = AsyncExitStack()
        self._session_or_none: Session | None = None
        self._requests_or_none: Requests | None = None
        self._bind(Registry(name, ""))

    @classmethod
    def attached(cls, session: Session) -> Self:
        """Create a client for a session that its caller opens and closes."""
        hub = cls(session.name, session.namespace)
        hub._attach(session)
        return hub

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # A kubeconfig of a child is for the clusters that it works with. Its hub is in the cluster it runs in.
            *_, context, kubeconfig = self._where
            pod_first = context is None and kubeconfig is None
            client, namespace = await stack.enter_async_context(connected(*self._where, pod_first=pod_first))
            session = Session(client, namespace, await find_hub(client, namespace, self.name))
            stack.push_async_callback(session.close)
            with translated(f"the registry of hub {self.name} can't be read"):
                await session.read()
            await session.follow()
            self._stack = stack.pop_all()
        self._attach(session)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_requests()
        self._session_or_none = None
        await self._stack.aclose()

    @property
    def namespace(self) -> str:
        """The hub's namespace."""
        return self._session.namespace

    # Changes.

    async def start_children(
        self,
        children: Iterable[ChildLike],
        *,
        wait: bool = False,
        timeout: float = 10,
        on_failure: OnFailure = "continue",
        check_existing: bool = True,
        child_mapping: Mapping[str, Sequence[str]] | None = None,
        metadata: Mapping[str, str] | None = None,
        tags: Sequence[str] = (),
    ) -> Result:
        """Start children, each a mapping like a manifest's ``spec`` (at least an id and a workload) or a ChildSpec.

        Args:
            children: The children to start.
            wait: Return when each child runs or is known not to; without it, as soon as all are created.
            timeout: Seconds for the whole call, with ``wait``.
            on_failure: If a child fails or the call is cancelled, ``rollback`` removes everything that this call
                created, and returns when nothing is left of it. ``continue`` keeps the children that started.
            check_existing: True: an id that exists is an error (AlreadyStarted). False: one that exists with the
                same spec counts as started.
            child_mapping: Members by id, for Guided hubs.
            metadata: Metadata for all children; a child's own wins.
            tags: Tags for all children, before a child's own.

        Returns:
            A Result that accounts for every child.

        Raises:
            NoChildren, InvalidChild, MissingChildMapping, ChildMappingMismatch, Partitioned: raised before anything is
                written.
            HubNotFound: the hub was deleted.
            Unreachable: the API server does not answer.
        """
        session = self._session
        if on_failure not in ("continue", "rollback"):
            raise HubError(f"on_failure is {on_failure!r}; it is 'continue' or 'rollback'")
        specs, errors = prepare(
            children, session.living_hub(), child_mapping=child_mapping, metadata=metadata, tags=tags
        )
        if self.is_partitioned():
            raise Partitioned(f"hub {self.name} has lost its quorum: {session.living_hub().partitioned}")
        call = StartCall(session, specs, check_existing=check_existing, on_failure=on_failure)
        call.result.errors.update(errors)
        with translated(f"children of hub {self.name} can't be started"):
            return await call.run(wait=wait, timeout=timeout)

    async def wait_children(self, ids: Iterable[str], timeout: float = 10) -> Result:
        """Wait until all of these children run.

        Raises:
            Timeout: some do not run yet. The error names them and has the result.
            ChildrenFailed: some are known not to run (not accepted, crashed, no such child). The error has the result.
            NoChildren, InvalidChild: the ids are not valid.
        """
        wanted = checked_ids(ids)

        async def wait(seconds: float) -> Start:
            start = Start(self._session, dict.fromkeys(wanted, ""))
            await start.until(asyncio.get_running_loop().time() + seconds)
            result.started, result.errors = start.running, {**start.failed, **start.late()}
            return start

        result = Result(wait)
        start = await wait(timeout)
        if start.pending:
            said = "; ".join(f"{child_id}: {hint}" for child_id, hint in sorted(start.hints.items())[:3])
            raise Timeout(
                f"not running within {timeout:g} s: {names(start.pending)}{f' ({said})' if said else ''}",
                tuple(sorted(start.pending)),
                result,
            )
        if start.failed:
            first = next(iter(sorted(start.failed)))
            raise ChildrenFailed(f"not started: {names(start.failed)} ({first}: {start.failed[first]})", result)
        return result

    async def stop_children(self, ids: Iterable[str], *, wait: bool = False, timeout: float = 30) -> StopResult:
        """Stop children; with ``wait`` return when their processes have ended, after ``timeout`` seconds at most.

        A static child (one of the hub's spec.children) can't be stopped like this. That and other reasons of single
        children are in the result's errors. A child that a request has started is started again by the next request;
        ``on_demand`` of the result names those. Raises NoChildren, InvalidChild, HubNotFound, Unreachable.
        """
        with translated(f"children of hub {self.name} can't be stopped"):
            return await stop_children(self._session, ids, wait=wait, timeout=timeout)

    async def register_hook_handlers(self, handlers: Iterable[Mapping[str, Any]]) -> None:
        """Add hooks, each written as in the Hub's spec.hooks, and return when the operator has applied them.

        They are kept in an annotation of the Hub; its spec is not changed. A hook of spec.hooks with the name of one of
        them takes its place. Raises InvalidHook (a name that exists already, a hook that is not valid; nothing is
        changed), HubNotFound, Timeout (no operator applied them), Unreachable.
        """
        hooks = parse_hooks(handlers)
        with translated(f"hooks of hub {self.name} can't be registered"):
            await register(self._session, hooks)

    async def cancel_hook_handlers(self, names: Iterable[str]) -> None:
        """Cancel the hooks of these names, and return when the hub calls none of them.

        One of the Hub's spec.hooks stays there and is not called until it is edited. Raises InvalidHook if one does not
        exist (nothing is changed), or if the Hub's last edit is not accepted and the spec before it has another hook of
        that name. Raises HubNotFound, Timeout, Unreachable.
        """
        with translated(f"hooks of hub {self.name} can't be cancelled"):
            await cancel(self._session, names)

    # Look-ups: local, from the registry as last seen.

    def child_lookup(self, child_id: str) -> tuple[Spec, Processes] | None:
        """The pair ``(spec, [(member, pid), …])`` with the active copy first; None if the id is not on record."""
        return self._lookups.get(child_id)

    def get_pid(self, child_id: str) -> int | None:
        """The pid of the active copy, or None if it has no process."""
        return self._pids.get(child_id)

    def get_pids(self, child_id: str) -> list[int]:
        """The pids of all copies, the active copy's first."""
        record = self._records.get(child_id)
        return [] if record is None else [pid for _, pid in record.processes if pid]

    def process_list(self, scope: str = "global", member: str | None = None) -> dict[str, Any]:
        """``global``: ``{id: [(member, pid), …]}``; ``local``: ``{id: pid}`` on ``member``, else on $HUB_MEMBER.

        Children without a process are not included; the pid of a pod child is 0. Raises HubError if the scope or the
        member is not known.
        """
        if scope == "global":
            return {child_id: record.processes for child_id, record in self._records.items() if record.processes}
        if scope != "local":
            raise HubError(f"scope is {scope!r}; it is 'global' or 'local'")
        member = member or os.environ.get("HUB_MEMBER")
        if not member:
            raise HubError("scope 'local' needs member=…: this process runs in no member (HUB_MEMBER is not set)")
        return {
            child_id: pid
            for child_id, record in self._records.items()
            for name, pid in record.processes
            if name == member
        }

    def tag_query(self, tag: str) -> dict[str, Processes]:
        """The children on record that have the tag, as ``{id: [(member, pid), …]}``."""
        return {child_id: self._records[child_id].processes for child_id in self._registry.tagged(tag)}

    def metadata_query(self, match: Mapping[str, str] | None = None, /, **pairs: str) -> dict[str, Processes]:
        """The children whose metadata has all these pairs, as ``{id: [(member, pid), …]}``.

        Keys that are not Python names go into ``match``. The call goes through all children.
        """
        wanted = {**(match or {}), **pairs}.items()
        return {
            child_id: record.processes
            for child_id, record in self._records.items()
            if wanted <= record.spec.metadata.items()
        }

    def registry_dump(self) -> dict[str, dict[str, Any]]:
        """``{id: {"uid": …, "spec": {…}, "nodes": [{name, role, state, pid, epoch, restarts, …}]}}``, sorted by id.

        Those that a request has started have ``"onDemand": True``, too.
        """
        return {
            child_id: {
                "uid": record.uid,
                "spec": record.spec.to_dict(),
                **({"onDemand": True} if record.on_demand else {}),
                "nodes": msgspec.to_builtins(record.nodes),
            }
            for child_id, record in sorted(self._records.items())
        }

    def nodes(self) -> list[str]:
        """The names of the members that are ready, sorted."""
        hub = self._session.hub
        return sorted(member.name for member in hub.status.members if member.ready) if hub else []

    def is_alive(self, child_id: str) -> bool:
        """Whether the child's active copy runs."""
        record = self._records.get(child_id)
        return record is not None and record.alive

    def is_locked(self, child_id: str) -> bool:
        """Whether the child is changing its owner now: by a move, or while an earlier incarnation ends."""
        record = self._records.get(child_id)
        return record is not None and record.locked

    def is_partitioned(self) -> bool:
        """Whether the hub has lost its quorum."""
        hub = self._session.hub
        return hub is not None and bool(hub.partitioned)

    # Requests to children.

    async def call(
        self, child_id: str, request: Any, timeout: float | None = None, *, idempotency_key: str = ""
    ) -> Any:
        """Send a child a request, through any member; returns its answer: a JSON value, or text if it is not JSON.

        A child handles its requests one at a time, in order of arrival. If it gets another owner, waiting requests go
        there. ``timeout`` (seconds) covers all of that; without it the hub's own limits apply.

        Raises:
            OutcomeUnknown: the request was handed to the child, and no answer came (a crash, a lost member). It is not
                sent again.
            Timeout: no answer within the hub's requestSeconds, or ``timeout``. The request may still be running.
            NoOwner, Busy, ChildNotFound, Partitioned, NotAllowed, BadRequest: the request was not run.
            RequestFailed: the child answered with an HTTP status of 400 or above.
        """
        return await self._requests.call(child_id, request, timeout, idempotency_key)

    def actor(self, child_id: str, kind: type[A], timeout: float | None = None) -> A:
        """A handle by which the methods of a python child are called: ``await hub.actor("counter", Counter).add(2)``.

        ``kind`` is the actor's class. The methods are those that are marked with ``processhub.method``. Arguments and
        results must fit JSON. They raise the errors of ``call``.
        """
        return handle_of(kind, lambda request: self.call(child_id, request, timeout))

    async def cast(self, child_id: str, message: Any, to: str = "one", *, timeout: float | None = None) -> list[str]:
        """Send a child a message without an answer; returns when it is in the child's queue.

        The message is handed over at most once. With ``to="all"`` it goes to every running copy, and the members that
        took it are returned (otherwise []). Raises the errors of ``call``.
        """
        return await self._requests.cast(child_id, message, to, timeout)

    # Moves.

    async def drain(self, member: str, *, force: bool = False, wait: bool = False, timeout: float = 60) -> DrainResult:
        """Drain a member: its children move away, and it takes none until ``undrain``.

        Guided and pinned children can't leave it. They keep running, and ``stranded`` of the result names them. With
        ``force`` they are stopped and wait for the member. With ``wait`` the call returns when nothing else is left on
        it. Raises HubError if there is no such member, Timeout, HubNotFound, Unreachable.
        """
        with translated(f"member {member} of hub {self.name} can't be drained"):
            return await moves.drain(self._session, member, force=force, wait=wait, timeout=timeout)

    async def undrain(self, member: str, *, wait: bool = False, timeout: float = 60) -> bool:
        """Allow a drained member to take children again, like a member that joins; returns False if it was not drained.

        With ``wait`` the call returns when its share of the children has been moved to it. Raises HubError if there is
        no such member, Timeout, HubNotFound, Unreachable.
        """
        with translated(f"member {member} of hub {self.name} can't be undrained"):
            return await moves.undrain(self._session, member, wait=wait, timeout=timeout)

    async def migrate_child(self, child_id: str, member: str, *, wait: bool = False, timeout: float = 30) -> None:
        """Move a child to a member; with ``wait`` return when it runs there.

        On a Guided hub the child stays there until its ``spec.nodes`` is edited. On other hubs it is moved once, and a
        later join may move it again. If the child has several copies, the one on ``member`` becomes the active one. If
        it has no copy there, the active copy moves there; if all copies are active, the lowest-ranked one. Raises
        HubError if the move is not possible (no such child or member, not ready, drained, full, pinned), Timeout,
        HubNotFound, Unreachable.
        """
        with translated(f"child {child_id!r} can't be moved"):
            await moves.move_child(self._session, child_id, member, wait=wait, timeout=timeout)

    async def close_requests(self) -> None:
        """Close the connections to members. Leaving ``async with`` does this too."""
        requests, self._requests_or_none = self._requests_or_none, None
        if requests is not None:
            await requests.close()

    def _attach(self, session: Session) -> None:
        self._session_or_none = session
        self._bind(session.registry)

    def _bind(self, registry: Registry) -> None:
        # The registry never replaces its dicts, so a look-up is a single get.
        self._registry = registry
        self._records, self._lookups, self._pids = registry.records, registry.lookups, registry.pids

    @property
    def _requests(self) -> Requests:
        if self._requests_or_none is None:
            self._requests_or_none = Requests(self._session)
        return self._requests_or_none

    @property
    def _session(self) -> Session:
        if self._session_or_none is None:
            raise HubError(f"the client of hub {self.name} is not connected; use it inside 'async with Hub.connect(…)'")
        return self._session_or_none
