"""Finds the cluster, the namespace and the hub of a command."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.slice import RegistrySlice
from processhub.cli.errors import CliError, UsageError
from processhub.cli.options import Target
from processhub.client.session import Session, connected, find_hub, list_hubs, translated
from processhub.cluster.client import Client
from processhub.cluster.config import Impersonation
from processhub.cluster.kinds import CHILD_SETS, CHILDREN, SLICES


def impersonation_of(target: Target) -> Impersonation | None:
    """Whose rights count, by --as and --as-group; None where the kubeconfig says. Raises UsageError."""
    if target.groups and not target.user:
        raise UsageError("--as-group needs --as, the user to impersonate")
    return Impersonation(target.user, tuple(target.groups or ())) if target.user else None


@asynccontextmanager
async def opened(
    target: Target, *, ids: Iterable[str] = (), members: Iterable[str] = (), follow: bool = False
) -> AsyncIterator[Session]:
    """Open the hub's session, with its registry read once or followed. Raises CliError and the client's errors."""
    async with connected(target.namespace, target.context, target.kubeconfig, impersonation_of(target)) as (
        client,
        namespace,
    ):
        hub = await resolve(client, namespace, target.hub, tuple(ids), tuple(members))
        session = Session(client, namespace, hub)
        try:
            with translated(f"the registry of hub {session.name} can't be read"):
                await (session.follow() if follow else session.read())
            yield session
        finally:
            await session.close()


async def resolve(
    client: Client, namespace: str, name: str | None, ids: tuple[str, ...] = (), members: tuple[str, ...] = ()
) -> Hub:
    """The named hub, else $HUB_NAME, else the namespace's only one, else the only one with these ids or members."""
    if name or (name := os.environ.get("HUB_NAME")):
        return await find_hub(client, namespace, name)
    with translated(f"hubs of namespace {namespace} can't be listed"):
        hubs = await list_hubs(client, namespace)
        if not hubs:
            raise CliError(f"no hub in namespace {namespace}; create one, or name another namespace with -n")
        if len(hubs) > 1 and (ids or members):
            hubs = await _with_them(client, namespace, hubs, ids, members) or hubs
    if len(hubs) > 1:
        listed = ", ".join(hub.metadata.name for hub in hubs)
        raise UsageError(f"which hub of namespace {namespace}? name one with --hub: {listed}")
    return hubs[0]


async def _with_them(
    client: Client, namespace: str, hubs: list[Hub], ids: tuple[str, ...], members: tuple[str, ...]
) -> list[Hub]:
    """The hubs that have one of the members, or one of the ids on record or as an object."""
    slices, _ = await client.list(SLICES, namespace)
    known = [item for item in slices if isinstance(item, RegistrySlice)]
    having = {item.spec.hub for item in known if item.spec.member in members}
    having |= {item.spec.hub for item in known if any(child_id in item.spec.entries for child_id in ids)}
    if not having and ids:
        children, _ = await client.list(CHILDREN, namespace)
        having = {item.spec.hub for item in children if isinstance(item, Child) and item.id in ids}
        sets, _ = await client.list(CHILD_SETS, namespace)
        having |= {item.spec.hub for item in sets if isinstance(item, ChildSet) and any(map(item.has, ids))}
    return [hub for hub in hubs if hub.metadata.name in having]
