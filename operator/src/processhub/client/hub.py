"""``Hub``: the client of one hub. Look-ups are local; what changes something is a request to the API server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from processhub.api.meta import find_condition
from processhub.client.errors import (
    ChildrenFailed,
    HubError,
    NotSupportedYet,
    Partitioned,
    Timeout,
    names,
)
from processhub.client.records import Processes, Spec
from processhub.client.registry import Registry
from processhub.client.results import Result, StopResult
from processhub.client.session import Session, connected, find_hub, translated
from processhub.client.specs import ChildLike, checked_ids, prepare
from processhub.client.start import OnFailure, StartCall
from processhub.client.stop import stop_children
from processhub.client.waiting import Start

if TYPE_CHECKING:
    from processhub.client.sync import SyncHub


class Hub:
    """A hub's children: started, stopped, waited for and looked up. Made by ``connect``, used in ``async with``.

    All errors are HubError. Timeouts are in seconds.
    """

    def __init__(
        self, name: str, namespace: str | None = None, context: str | None = None, kubeconfig: str | None = None
    ) -> None:
        self.name = name
        self._where = (namespace, context, kubeconfig)
        self._stack = AsyncExitStack()
        self._session_or_none: Session | None = None
        self._bind(Registry(name, ""))

    @classmethod
    def connect(
        cls, name: str, namespace: str | None = None, context: str | None = None, kubeconfig: str | None = None
    ) -> Hub:
        """The client of hub ``name``, for ``async with``; entering connects and reads the registry.

        The namespace is the one given, else $HUB_NAMESPACE, else the kubeconfig context's or the pod's. Entering
        raises HubNotFound, Unreachable, Timeout.
        """
        return cls(name, namespace, context, kubeconfig)

    @staticmethod
    def connect_sync(
        name: str, namespace: str | None = None, context: str | None = None, kubeconfig: str | None = None
    ) -> SyncHub:
        """The same client with blocking methods, connected at once; ``close`` it, or use it in ``with``.

        Raises HubNotFound, Unreachable, Timeout.
        """
        from processhub.client.sync import SyncHub

        return SyncHub(Hub(name, namespace, context, kubeconfig))

    @classmethod
    def attached(cls, session: Session) -> Hub:
        """The client over a session that its caller opened and closes."""
        hub = cls(session.name, session.namespace)
        hub._attach(session)
        return hub

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            client, namespace = await stack.enter_async_context(connected(*self._where))
            session = Session(client, namespace, await find_hub(client, namespace, self.name))
            stack.push_async_callback(session.close)
            with translated(f"the registry of hub {self.name} can't be read"):
                await session.read()
            await session.follow()
            self._stack = stack.pop_all()
        self._attach(session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session_or_none = None
        await self._stack.aclose()

    @property
    def namespace(self) -> str:
        """The hub's namespace."""
        return self._session.namespace

    # changing

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
        """Start children; each a mapping as in a manifest's ``spec`` (an id and a workload at least) or a ChildSpec.

        Args:
            children: What to start.
            wait: Return when each runs or is known not to, else as soon as all are created.
            timeout: Seconds for all of it, with ``wait``.
            on_failure: ``rollback`` removes everything that this call created where one child fails, or the call is
                cancelled, and returns when nothing is left of it; ``continue`` keeps those that started.
            check_existing: True: an id that exists is an error (AlreadyStarted). False: one that exists with the same
                spec counts as started.
            child_mapping: Members by id, for Guided hubs.
            metadata: For all of them; a child's own wins.
            tags: For all of them, before a child's own.

        Returns:
            A Result that accounts for every child.

        Raises:
            NoChildren, InvalidChild, MissingChildMapping, ChildMappingMismatch, Partitioned: nothing was written.
            HubNotFound: the hub was deleted. Unreachable: no answer from the API server.
        """
        session = self._session
        if on_failure not in ("continue", "rollback"):
            raise HubError(f"on_failure is {on_failure!r}; it is 'continue' or 'rollback'")
        specs, errors = prepare(
            children, session.living_hub(), child_mapping=child_mapping, metadata=metadata, tags=tags
        )
        if self.is_partitioned():
            raise Partitioned(f"hub {self.name} has lost its quorum: nothing is started until enough members are back")
        call = StartCall(session, specs, check_existing=check_existing, on_failure=on_failure)
        call.result.errors.update(errors)
        with translated(f"children of hub {self.name} can't be started"):
            return await call.run(wait=wait, timeout=timeout)

    async def wait_children(self, ids: Iterable[str], timeout: float = 10) -> Result:
        """Wait until all of these run.

        Raises:
            Timeout: some were still on their way; it names them and has the result.
            ChildrenFailed: some are known not to run (refused, crashed, no such child); it has the result.
            NoChildren, InvalidChild: the ids are no ids.
        """
        start = Start(self._session, dict.fromkeys(checked_ids(ids), ""))
        await start.until(asyncio.get_running_loop().time() + timeout)
        result = Result()
        result.started, result.errors = start.running, {**start.failed, **start.late()}
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
        """Stop children by id; with ``wait`` return when their processes have ended, ``timeout`` seconds at most.

        A static child (one of the hub's spec.children) can't be stopped so: that, and every other reason of a single
        child, is in the result's errors. Raises NoChildren, InvalidChild, HubNotFound, Unreachable.
        """
        with translated(f"children of hub {self.name} can't be stopped"):
            return await stop_children(self._session, ids, wait=wait, timeout=timeout)

    # looking up: local, from the registry as last seen

    def child_lookup(self, child_id: str) -> tuple[Spec, Processes] | None:
        """``(spec, [(member, pid), …])``, the active one first; None where the id is not on record."""
        return self._lookups.get(child_id)

    def get_pid(self, child_id: str) -> int | None:
        """The active copy's pid, None where it has none."""
        return self._pids.get(child_id)

    def get_pids(self, child_id: str) -> list[int]:
        """The pids of all copies, the active one's first."""
        record = self._records.get(child_id)
        return [] if record is None else [pid for _, pid in record.processes if pid]

    def process_list(self, scope: str = "global", member: str | None = None) -> dict[str, Any]:
        """``global``: ``{id: [(member, pid), …]}``; ``local``: ``{id: pid}`` on ``member``, else on $HUB_MEMBER.

        Children without a process are not in it; the pid of a pod child is 0. Raises HubError where the scope or the
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
        """``{id: [(member, pid), …]}`` of the children on record that carry the tag."""
        return {child_id: self._records[child_id].processes for child_id in self._registry.tagged(tag)}

    def metadata_query(self, match: Mapping[str, str] | None = None, /, **pairs: str) -> dict[str, Processes]:
        """``{id: [(member, pid), …]}`` of the children whose metadata holds all these pairs.

        Keys that are no Python names go into ``match``. Looks at every child.
        """
        wanted = {**(match or {}), **pairs}.items()
        return {
            child_id: record.processes
            for child_id, record in self._records.items()
            if wanted <= record.spec.metadata.items()
        }

    def registry_dump(self) -> dict[str, dict[str, Any]]:
        """``{id: {"uid": …, "spec": {…}, "nodes": [{name, role, state, pid, epoch, restarts, …}]}}``, sorted by id."""
        return {
            child_id: {"uid": record.uid, "spec": record.spec.to_dict(), "nodes": msgspec.to_builtins(record.nodes)}
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
        """Whether the child is changing its owner right now: a move, or an earlier incarnation that still ends."""
        record = self._records.get(child_id)
        return record is not None and record.locked

    def is_partitioned(self) -> bool:
        """Whether the hub has lost its quorum."""
        hub = self._session.hub
        quorate = find_condition(hub.status.conditions, "Quorate") if hub else None
        return quorate is not None and quorate.status == "False"

    # of later versions

    async def call(self, child_id: str, request: Any, timeout: float | None = None) -> Any:
        """Raises NotSupportedYet."""
        raise _later("call: requests to children")

    async def cast(self, child_id: str, message: Any) -> None:
        """Raises NotSupportedYet."""
        raise _later("cast: messages to children")

    async def drain(self, member: str) -> None:
        """Raises NotSupportedYet."""
        raise _later("drain: emptying a member; `kubectl cordon` and `kubectl scale hub` move children today")

    async def migrate_child(self, child_id: str, member: str) -> None:
        """Raises NotSupportedYet."""
        raise _later("migrate_child: moving one child by hand; on a Guided hub edit the child's spec.nodes")

    async def register_hook_handlers(self, handlers: Iterable[Mapping[str, Any]]) -> None:
        """Raises NotSupportedYet."""
        raise _later("register_hook_handlers: hooks")

    async def cancel_hook_handlers(self, names: Iterable[str]) -> None:
        """Raises NotSupportedYet."""
        raise _later("cancel_hook_handlers: hooks")

    def _attach(self, session: Session) -> None:
        self._session_or_none = session
        self._bind(session.registry)

    def _bind(self, registry: Registry) -> None:
        # The registry never replaces its dicts: a look-up is one get.
        self._registry = registry
        self._records, self._lookups, self._pids = registry.records, registry.lookups, registry.pids

    @property
    def _session(self) -> Session:
        if self._session_or_none is None:
            raise HubError(f"the client of hub {self.name} is not connected; use it inside 'async with Hub.connect(…)'")
        return self._session_or_none


def _later(what: str) -> NotSupportedYet:
    return NotSupportedYet(f"not supported yet: {what}")
