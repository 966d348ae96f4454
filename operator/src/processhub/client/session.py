"""One hub as a client sees it: the API connection, the Hub object and the registry, which watches keep up to date."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import LABEL_HUB
from processhub.api.slice import RegistrySlice
from processhub.client.errors import HubError, HubNotFound, Timeout, Unreachable
from processhub.client.records import Record
from processhub.client.registry import Registry
from processhub.client.writes import PatientClient
from processhub.cluster.client import Client
from processhub.cluster.config import ConfigError, Overrides
from processhub.cluster.decoding import Undecodable
from processhub.cluster.errors import ApiError, ConnectionFailedError, ForbiddenError, NotFoundError, UnreadableError
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import HUBS, SLICES
from processhub.cluster.tasks import cancel_all

_SYNC_SECONDS = 30.0
_AFTER_FAULT_SECONDS = 1.0
log = logging.getLogger(__name__)


class Session:
    """The state that all calls on one hub share."""

    def __init__(self, client: Client, namespace: str, hub: Hub) -> None:
        self.client, self.namespace = client, namespace
        self.hub: Hub | None = hub  # None once the hub was deleted
        self.name = hub.metadata.name
        self.registry = Registry(self.name, hub.metadata.uid)
        self._tasks: list[asyncio.Task[None]] = []
        self._slices: Informer[RegistrySlice] | None = None

    async def read(self) -> None:
        """Fill the registry once, from one consistent list."""
        items, _ = await self.client.list(SLICES, self.namespace, labels=f"{LABEL_HUB}={self.name}")
        for item in items:
            if not isinstance(item, Undecodable):
                self.registry.put(item)

    async def follow(self) -> None:
        """Keep the hub and the registry up to date; returns when they are for the first time. Raises Timeout."""
        hubs = Informer(
            self.client, HUBS, self._hub_changed, namespace=self.namespace, fields=f"metadata.name={self.name}"
        )
        slices = self._slices = Informer(
            self.client, SLICES, self._slice_changed, namespace=self.namespace, labels=f"{LABEL_HUB}={self.name}"
        )
        self.registry.reset(self.registry.hub_uid)  # What was read before may be deleted by now.
        self._tasks += [asyncio.create_task(self._run(informer)) for informer in (hubs, slices)]
        try:
            async with asyncio.timeout(_SYNC_SECONDS):
                await hubs.synced.wait()
                await slices.synced.wait()
        except TimeoutError:
            raise Timeout(f"the registry of hub {self.name} could not be read in {_SYNC_SECONDS:.0f} s") from None

    async def close(self) -> None:
        """End the watches."""
        await cancel_all(self._tasks)
        self._tasks.clear()

    def living_hub(self) -> Hub:
        """The hub as it is now. Raises HubNotFound if it was deleted."""
        if self.hub is None:
            raise HubNotFound(f"hub {self.name} in namespace {self.namespace} was deleted; create it again")
        return self.hub

    def on_demand(self, child_id: str) -> Record | None:
        """The record of a child that a request has started, and that no object describes; None for any other."""
        record = self.registry.records.get(child_id)
        return record if record is not None and record.on_demand and record.uid == self.registry.hub_uid else None

    async def _run(self, informer: Informer[Any]) -> None:
        while True:
            try:
                await informer.run()
            except Exception:
                # A change could not be applied, because of a bug in the client. The registry may lack it, so it is read
                # again.
                log.exception("hub %s is read again", self.name)
                informer.items.clear()
                if informer is self._slices:
                    self.registry.reset(self.registry.hub_uid)
                await asyncio.sleep(_AFTER_FAULT_SECONDS)

    def _hub_changed(self, _: Hub | None, new: Hub | None) -> None:
        self.hub = new
        if new is not None and new.metadata.uid != self.registry.hub_uid:
            self.registry.reset(new.metadata.uid)
            for item in self._slices.items.values() if self._slices else ():
                self.registry.put(item)

    def _slice_changed(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        if new is not None:
            self.registry.put(new)
        elif old is not None:
            self.registry.drop(old.metadata.name)


@asynccontextmanager
async def connected(
    namespace: str | None = None,
    context: str | None = None,
    kubeconfig: str | None = None,
    overrides: Overrides | None = None,
    *,
    pod_first: bool = False,
) -> AsyncIterator[tuple[Client, str]]:
    """An API client and the namespace: the given one, else the context's, else the pod's. Raises Unreachable.

    ``pod_first``: the cluster of the member or child that this process is comes before that of a kubeconfig.
    """
    in_member = pod_first and bool(os.environ.get("HUB_MEMBER"))
    try:
        client = await PatientClient.connect(context, kubeconfig, overrides=overrides, pod_first=in_member)
    except ConfigError as error:
        raise Unreachable(str(error)) from error
    async with client:
        yield client, namespace or os.environ.get("HUB_NAMESPACE") or client.namespace


async def find_hub(client: Client, namespace: str, name: str) -> Hub:
    """The Hub object. Raises HubNotFound (which lists the existing hubs, if they may be listed) and Unreachable."""
    with translated(f"hub {name} in namespace {namespace} can't be read"):
        try:
            return await client.get(HUBS, namespace, name)
        except NotFoundError:
            try:
                hubs = [hub.metadata.name for hub in await list_hubs(client, namespace)]
            except ForbiddenError:  # the account may read this one only
                raise HubNotFound(f"hub {name} not found in namespace {namespace}") from None
    there = f"there are: {', '.join(hubs)}" if hubs else "there is none in this namespace"
    raise HubNotFound(f"hub {name} not found in namespace {namespace}; {there}")


async def list_hubs(client: Client, namespace: str | None) -> list[Hub]:
    """The hubs of the namespace, or of all, by name. Raises ApiError, or HubNotFound if the CRDs are not installed."""
    try:
        items, _ = await client.list(HUBS, namespace)
    except NotFoundError as error:
        raise HubNotFound("this cluster has no ProcessHub: its CRDs are not installed; install the chart") from error
    return sorted((item for item in items if isinstance(item, Hub)), key=lambda hub: hub.metadata.name)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the API's errors inside the block into Unreachable, with ``what`` (a clause) in front."""
    try:
        yield
    except ApiError as error:
        raise unreachable(what, error) from error


def unreachable(what: str, error: ApiError) -> HubError:
    """The client's error for an error of the API, with ``what`` (a clause) in front."""
    if isinstance(error, ForbiddenError):
        hint = _role_for(error.message) if error.status == 403 else "the credentials are not valid"
        return Unreachable(f"{what}: {error.message}; {hint}")
    if isinstance(error, ConnectionFailedError) and not isinstance(error, UnreadableError):
        return Unreachable(f"{what}: the API server does not answer: {error.message}")
    return Unreachable(f"{what}: {error.message}")


def _role_for(message: str) -> str:
    """The role to ask for, by the API server's message, as ``User "x" cannot list resource "hubs" in API group``."""
    found = re.search(r"cannot (\w+) resource", message)
    role = "view" if found is None or found[1] in ("get", "list", "watch") else "edit"
    if "at the cluster scope" in message:
        return f"ask for the role {role} in all namespaces, or name one"
    return f"ask for the role {role} in that namespace"
