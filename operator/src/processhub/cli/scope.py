"""The hubs that a verb shows: one, or with ``-A`` those of all namespaces; read once, or followed by watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from processhub.api.hub import Hub, MemberStatus
from processhub.api.naming import LABEL_HUB, natural_order
from processhub.api.slice import RegistrySlice
from processhub.cli.errors import CliError
from processhub.cli.output import say
from processhub.cli.shared import Target
from processhub.cli.target import connection, resolve
from processhub.client.session import Session, list_hubs, translated
from processhub.cluster.client import Client
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import HUBS, SLICES
from processhub.cluster.tasks import cancel_all

_Key = tuple[str, str]  # namespace, name


class Change(NamedTuple):
    """A change of a hub: the ids of the children that changed, none of them if its own status did."""

    session: Session
    ids: frozenset[str]


class Scope:
    """The hubs, by namespace and name. ``namespace`` None is all namespaces, ``name`` "" all hubs there."""

    def __init__(self, client: Client, namespace: str | None, name: str = "") -> None:
        self._client, self.namespace, self._name = client, namespace, name
        self._sessions: dict[_Key, Session] = {}
        self._queue: asyncio.Queue[Change] = asyncio.Queue()
        self._slices: Informer[RegistrySlice] | None = None

    @property
    def where(self) -> str:
        """The hubs in words."""
        place = f"namespace {self.namespace}" if self.namespace else "all namespaces"
        return f"hub {self._name} in {place}" if self._name else f"hubs in {place}"

    @property
    def header(self) -> tuple[str, ...]:
        """The columns that say of which hub a row is, where those of all namespaces are shown."""
        return ("NAMESPACE", "HUB") if self.namespace is None else ()

    def place(self, session: Session) -> tuple[str, ...]:
        """The cells of these columns."""
        return (session.namespace, session.name) if self.namespace is None else ()

    def plain_place(self, session: Session) -> dict[str, str]:
        """The fields by which JSON and YAML say of which hub an item is, where those of all namespaces are shown."""
        return {"namespace": session.namespace, "hub": session.name} if self.namespace is None else {}

    @property
    def sessions(self) -> list[Session]:
        """The hubs by namespace and name."""
        return [self._sessions[key] for key in sorted(self._sessions)]

    async def read(self) -> None:
        """Read the hubs and their registries once. Raises ApiError, HubNotFound."""
        for hub in await list_hubs(self._client, self.namespace):
            if self._name in ("", hub.metadata.name):
                self._session(hub)
        slices, _ = await self._client.list(SLICES, self.namespace, labels=self._labels)
        for item in slices:
            if isinstance(item, RegistrySlice):
                self._put(item)

    async def changes(self) -> AsyncIterator[Change]:
        """Yield what changes after ``read``, until cancelled."""
        fields = f"metadata.name={self._name}" if self._name else ""
        hubs = Informer(self._client, HUBS, self._hub_changed, namespace=self.namespace, fields=fields)
        self._slices = Informer(
            self._client, SLICES, self._slice_changed, namespace=self.namespace, labels=self._labels
        )
        running = [asyncio.create_task(informer.run()) for informer in (hubs, self._slices)]
        try:
            while True:
                change = asyncio.create_task(self._queue.get())
                await asyncio.wait((change, *running), return_when=asyncio.FIRST_COMPLETED)
                if not change.done():
                    change.cancel()
                    await next(task for task in running if task.done())  # raises what ended it
                yield await change
        finally:
            await cancel_all(running)

    @property
    def _labels(self) -> str:
        return f"{LABEL_HUB}={self._name}" if self._name else ""

    def _session(self, hub: Hub) -> Session:
        session = Session(self._client, hub.metadata.namespace, hub)
        session.registry.listen(lambda ids: self._queue.put_nowait(Change(session, frozenset(ids))))
        self._sessions[hub.metadata.key] = session
        return session

    def _put(self, item: RegistrySlice) -> None:
        if (session := self._sessions.get((item.metadata.namespace, item.spec.hub))) is not None:
            session.registry.put(item)

    def _hub_changed(self, old: Hub | None, new: Hub | None) -> None:
        if new is None:
            if old is not None:
                self._gone(old)
            return
        key = new.metadata.key
        session = self._sessions.get(key)
        if session is not None and session.registry.hub_uid == new.metadata.uid:
            session.hub = new
        else:
            self._gone(new)
            session = self._session(new)
            for item in self._slices.items.values() if self._slices else ():
                self._put(item)
        self._queue.put_nowait(Change(session, frozenset()))

    def _gone(self, hub: Hub) -> None:
        """Forget a hub that was deleted, or created again."""
        session = self._sessions.pop(hub.metadata.key, None)
        if session is not None:
            session.hub = None
            session.registry.reset("")
            self._queue.put_nowait(Change(session, frozenset()))

    def _slice_changed(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        if new is not None:
            self._put(new)
        elif old is not None:
            session = self._sessions.get((old.metadata.namespace, old.spec.hub))
            if session is not None:
                session.registry.drop(old.metadata.name)


@asynccontextmanager
async def opened_scope(target: Target, *, everywhere: bool, members: tuple[str, ...] = ()) -> AsyncIterator[Scope]:
    """Open and read the hub of the command line, or all with ``everywhere``. Raises CliError, HubError."""
    async with connection(target) as (client, namespace):
        if everywhere:
            scope = Scope(client, None, target.hub or "")
        else:
            hub = await resolve(client, namespace, target.hub, (), members)
            scope = Scope(client, namespace, hub.metadata.name)
        with translated(f"{scope.where} can't be read"):
            await scope.read()
        if not scope.sessions:
            raise CliError(f"no hub {target.hub} in any namespace" if target.hub else "no hub in any namespace")
        yield scope


def members_of(session: Session) -> list[MemberStatus]:
    """The members of the hub's status, by name."""
    return sorted(session.living_hub().status.members, key=lambda member: natural_order(member.name))


def say_unplaced(session: Session) -> None:
    """Say how many children of the hub are not placed, and where the reason is."""
    hub = session.living_hub()
    records = session.registry.records.values()
    placed = sum(record.on_record and not record.nodes[0].asleep for record in records)
    unplaced = hub.status.children.desired - placed if hub.status.children else 0
    if unplaced > 0:
        are = "child is" if unplaced == 1 else "children are"
        why = f"kubectl get children,childsets -n {session.namespace} says why"
        more = ", for those that requests ask for kubectl hub explain ID" if hub.spec.on_demand is not None else ""
        say(f"{unplaced} more {are} not placed in hub {session.name}: {why}{more}")
