"""The client with blocking methods. An event loop in a thread of its own does the work; look-ups stay local."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, cast

from processhub.client.asynchub import AsyncHub
from processhub.client.errors import ChildrenFailed, HubError, Timeout
from processhub.client.moves import DrainResult
from processhub.client.records import Processes, Spec
from processhub.client.results import Result, StopResult
from processhub.client.specs import ChildLike
from processhub.client.start import OnFailure
from processhub.methods import handle_of

if TYPE_CHECKING:
    from processhub.actor import Actor

T = TypeVar("T")
A = TypeVar("A", bound="Actor")


class SyncResult(Result):
    """A Result whose ``wait`` blocks."""

    def __init__(self, inner: Result, hub: SyncHub) -> None:
        super().__init__()
        self._inner, self._hub = inner, hub
        self._take()

    def wait(self, timeout: float = 10) -> SyncResult:  # type: ignore[override]  # the blocking twin
        """Wait as ``Result.wait`` does, but block."""
        self._hub._run(self._inner.wait(timeout))
        self._take()
        return self

    def _take(self) -> None:
        self.started, self.errors = self._inner.started, self._inner.errors
        self.objects, self.rollback = self._inner.objects, self._inner.rollback


class _Forked:
    """Stands for the Hub in a forked process: the event loop's thread is not there, so nothing would ever answer."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, _: str) -> NoReturn:
        self.refuse()

    def refuse(self, child_id: str = "") -> NoReturn:
        """Raise HubError."""
        raise HubError(
            f"the client of hub {self._name} was connected before this process was forked; connect again after the fork"
        )


class SyncHub:
    """``Hub`` with blocking methods, usable from several threads. See ``Hub`` for arguments, results and errors.

    A process that is forked afterwards needs a client of its own: there, calls and look-ups raise HubError.
    """

    def __init__(self, hub: AsyncHub) -> None:
        self._hub = hub
        self.name = hub.name
        self._working: set[asyncio.Task[Any] | None] = set()
        self._open, self._lock = True, threading.Lock()  # the loop never runs what it gets after its last task
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"hub {hub.name}", daemon=True)
        self._thread.start()
        _clients.add(self)
        try:
            self._run(hub.__aenter__())
        except BaseException:
            self._end_loop()
            raise
        # These are the Hub's own methods, because they only read dicts of prepared values.
        self.get_pid, self.get_pids = hub.get_pid, hub.get_pids

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the watches and the thread. Rollbacks under way are finished first."""
        with self._lock:
            first, self._open = self._open, False
        if not first:
            self._thread.join()
            return
        try:
            self._result(asyncio.run_coroutine_threadsafe(self._finish(), self._loop))
        finally:
            self._end_loop()

    @property
    def namespace(self) -> str:
        """The hub's namespace."""
        return self._hub.namespace

    def start_children(
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
    ) -> SyncResult:
        """See ``Hub.start_children``."""
        result = self._run(
            self._hub.start_children(
                children,
                wait=wait,
                timeout=timeout,
                on_failure=on_failure,
                check_existing=check_existing,
                child_mapping=child_mapping,
                metadata=metadata,
                tags=tags,
            )
        )
        return SyncResult(result, self)

    def wait_children(self, ids: Iterable[str], timeout: float = 10) -> SyncResult:
        """See ``Hub.wait_children``."""
        try:
            return SyncResult(self._run(self._hub.wait_children(ids, timeout)), self)
        except (ChildrenFailed, Timeout) as error:
            if error.result is not None:
                error.result = SyncResult(error.result, self)
            raise

    def stop_children(self, ids: Iterable[str], *, wait: bool = False, timeout: float = 30) -> StopResult:
        """See ``Hub.stop_children``."""
        return self._run(self._hub.stop_children(ids, wait=wait, timeout=timeout))

    def child_lookup(self, child_id: str) -> tuple[Spec, Processes] | None:
        """See ``Hub.child_lookup``."""
        return self._hub.child_lookup(child_id)

    def process_list(self, scope: str = "global", member: str | None = None) -> dict[str, Any]:
        """See ``Hub.process_list``."""
        return self._run(self._in_loop(lambda: self._hub.process_list(scope, member)))

    def tag_query(self, tag: str) -> dict[str, Processes]:
        """See ``Hub.tag_query``."""
        return self._run(self._in_loop(lambda: self._hub.tag_query(tag)))

    def metadata_query(self, match: Mapping[str, str] | None = None, /, **pairs: str) -> dict[str, Processes]:
        """See ``Hub.metadata_query``."""
        return self._run(self._in_loop(lambda: self._hub.metadata_query(match, **pairs)))

    def registry_dump(self) -> dict[str, dict[str, Any]]:
        """See ``Hub.registry_dump``."""
        return self._run(self._in_loop(self._hub.registry_dump))

    def nodes(self) -> list[str]:
        """See ``Hub.nodes``."""
        return self._hub.nodes()

    def is_alive(self, child_id: str) -> bool:
        """See ``Hub.is_alive``."""
        return self._hub.is_alive(child_id)

    def is_locked(self, child_id: str) -> bool:
        """See ``Hub.is_locked``."""
        return self._hub.is_locked(child_id)

    def is_partitioned(self) -> bool:
        """See ``Hub.is_partitioned``."""
        return self._hub.is_partitioned()

    def call(self, child_id: str, request: Any, timeout: float | None = None, *, idempotency_key: str = "") -> Any:
        """See ``Hub.call``."""
        return self._run(self._hub.call(child_id, request, timeout, idempotency_key=idempotency_key))

    def actor(self, child_id: str, kind: type[A], timeout: float | None = None) -> A:
        """See ``Hub.actor``. The methods block, and return the result itself."""
        return handle_of(kind, lambda request: self.call(child_id, request, timeout))

    def cast(self, child_id: str, message: Any, to: str = "one", *, timeout: float | None = None) -> list[str]:
        """See ``Hub.cast``."""
        return self._run(self._hub.cast(child_id, message, to, timeout=timeout))

    def drain(self, member: str, *, force: bool = False, wait: bool = False, timeout: float = 60) -> DrainResult:
        """See ``Hub.drain``."""
        return self._run(self._hub.drain(member, force=force, wait=wait, timeout=timeout))

    def undrain(self, member: str, *, wait: bool = False, timeout: float = 60) -> bool:
        """See ``Hub.undrain``."""
        return self._run(self._hub.undrain(member, wait=wait, timeout=timeout))

    def migrate_child(self, child_id: str, member: str, *, wait: bool = False, timeout: float = 30) -> None:
        """See ``Hub.migrate_child``."""
        self._run(self._hub.migrate_child(child_id, member, wait=wait, timeout=timeout))

    def register_hook_handlers(self, handlers: Iterable[Mapping[str, Any]]) -> None:
        """See ``Hub.register_hook_handlers``."""
        self._run(self._hub.register_hook_handlers(handlers))

    def cancel_hook_handlers(self, names: Iterable[str]) -> None:
        """See ``Hub.cancel_hook_handlers``."""
        self._run(self._hub.cancel_hook_handlers(names))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if not self._open:
                work.close()
                raise HubError(f"the client of hub {self.name} is closed; connect again")
            future = asyncio.run_coroutine_threadsafe(self._tracked(work), self._loop)
        return self._result(future)

    def _result(self, future: Future[T]) -> T:
        try:
            return future.result()
        except BaseException:
            # An interrupted call is cancelled, so that a start with rollback is rolled back. close() waits for that.
            future.cancel()
            raise

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        self._working.add(task)
        try:
            return await work
        finally:
            self._working.discard(task)

    def _refuse(self) -> None:
        """Refuse all calls and look-ups, in a process that was forked from the one in which the thread runs."""
        forked = _Forked(self.name)
        self._hub, self.get_pid, self.get_pids = cast(AsyncHub, forked), forked.refuse, forked.refuse
        self._open, self._lock = False, threading.Lock()  # another thread may have held the lock

    async def _in_loop(self, look: Callable[[], T]) -> T:
        # Look-ups that go through the whole registry run in the thread that changes it.
        return look()

    async def _finish(self) -> None:
        await asyncio.gather(*(task for task in self._working if task), return_exceptions=True)
        await self._hub.__aexit__(None, None, None)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


_clients: weakref.WeakSet[SyncHub] = weakref.WeakSet()


def _refuse_all() -> None:
    for client in list(_clients):
        client._refuse()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_refuse_all)
