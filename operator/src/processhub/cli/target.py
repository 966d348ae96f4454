"""Finds the cluster, the namespace and the hub of a command."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.naming import child_object_name
from processhub.api.slice import RegistrySlice
from processhub.cli.durations import seconds
from processhub.cli.errors import CliError, UsageError
from processhub.cli.output import say
from processhub.cli.shared import Target
from processhub.client.errors import names
from processhub.client.session import Session, connected, find_hub, list_hubs, translated
from processhub.cluster.client import Client
from processhub.cluster.config import Impersonation, Overrides
from processhub.cluster.decoding import Undecodable
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import CHILD_SETS, CHILDREN, SLICES


def overrides_of(target: Target) -> Overrides:
    """What the command line says in place of the kubeconfig. Raises UsageError."""
    if (target.as_groups or target.as_uid) and not target.as_user:
        raise UsageError("--as-group and --as-uid need --as, the user to impersonate")
    if target.insecure and target.authority:
        raise UsageError("--insecure-skip-tls-verify takes any certificate: leave out --certificate-authority")
    limit = target.request_timeout
    user = Impersonation(target.as_user, tuple(target.as_groups or ()), target.as_uid or "") if target.as_user else None
    return Overrides(
        cluster=target.cluster or "",
        user=target.user or "",
        server=target.server or "",
        token=target.token or "",
        certificate_authority=target.authority or "",
        tls_server_name=target.tls_server_name or "",
        insecure_skip_tls_verify=target.insecure,
        impersonation=user,
        request_timeout=None if limit in (None, "0", "0s") else seconds(limit, "--request-timeout"),
    )


@asynccontextmanager
async def connection(target: Target) -> AsyncIterator[tuple[Client, str]]:
    """A client of the cluster that the options name, and the namespace. Raises UsageError, Unreachable."""
    async with connected(target.namespace, target.context, target.kubeconfig, overrides_of(target)) as found:
        yield found


@asynccontextmanager
async def opened(
    target: Target, *, ids: Iterable[str] = (), members: Iterable[str] = (), follow: bool = False
) -> AsyncIterator[Session]:
    """Open the hub's session, with its registry read once or followed. Raises CliError and the client's errors."""
    async with connection(target) as (client, namespace):
        hub = await resolve(client, namespace, target.hub, tuple(ids), tuple(members))
        session = Session(client, namespace, hub)
        try:
            with translated(f"the registry of hub {session.name} can't be read"):
                await session.read()  # which fails at once where watches would go on trying
                if follow:
                    await session.follow()
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
            hubs = await _with_them(client, namespace, hubs, ids, members)
    if len(hubs) > 1:
        listed = ", ".join(hub.metadata.name for hub in hubs)
        raise UsageError(f"which hub of namespace {namespace}? name one with --hub: {listed}")
    return hubs[0]


async def _with_them(
    client: Client, namespace: str, hubs: list[Hub], ids: tuple[str, ...], members: tuple[str, ...]
) -> list[Hub]:
    """The hubs that have one of the ids on record or as an object, or one of the members. Raises CliError if none has.

    If ids and members are given, those that have both, else those with one of the ids. Hubs that start children on
    demand may have any id.
    """
    slices, _ = await client.list(SLICES, namespace)
    known = [item for item in slices if isinstance(item, RegistrySlice)]
    having_member = {item.spec.hub for item in known if item.spec.member in members}
    having = {
        item.spec.hub
        for item in known
        for ids_there in (item.spec.entries, item.status.reports, item.status.asks)
        if any(child_id in ids_there for child_id in ids)
    }
    if not having and ids:
        children, _ = await client.list(CHILDREN, namespace)
        _check_readable(children, ids)
        having = {item.spec.hub for item in children if isinstance(item, Child) and item.id in ids}
        sets, _ = await client.list(CHILD_SETS, namespace)
        having |= {item.spec.hub for item in sets if isinstance(item, ChildSet) and any(map(item.has, ids))}
        having |= {hub.metadata.name for hub in hubs if any(spec.id in ids for spec in hub.spec.children)}
    having = (having & having_member or having) if ids else having_member
    found = [hub for hub in hubs if hub.metadata.name in having]
    found = found or [hub for hub in hubs if ids and hub.spec.on_demand]
    if found:
        return found
    listed = ", ".join(hub.metadata.name for hub in hubs)
    what = f"a child {names(map(repr, ids))}" if ids else f"a member {names(map(repr, members))}"
    if having:
        gone = names(having)
        raise CliError(f"{what[2:]} is of hub {gone}, which is not in namespace {namespace}; it has the hubs {listed}")
    raise CliError(f"no hub of namespace {namespace} has {what}; it has the hubs {listed}")


def _check_readable(children: Iterable[Child | Undecodable], ids: tuple[str, ...]) -> None:
    """Raise CliError if an object of one of these children can't be read, so that its hub is not known."""
    for item in children:
        if isinstance(item, Undecodable):
            child_id = next((child_id for child_id in ids if child_object_name(child_id) == item.metadata.name), None)
            if child_id is not None:
                raise CliError(f"child {child_id!r} can't be read: {item.error}")


def warn_of_unready(session: Session, members: set[str]) -> None:
    """Say which of these members are not ready, so that nobody takes their last reports for what is so now."""
    hub = session.living_hub()
    known = {member.name: member for member in hub.status.members}
    for name in sorted(name for name in members if name not in known or not known[name].ready):
        why = known[name].message if name in known else "it is not a member any more"
        unready = f"member {name} of hub {session.name} is not ready{why and f' ({why})'}"
        say(f"warning: {unready}: its children are shown as it last reported them")


def unreachable_member(session: Session, member: str, what: str, error: ApiError) -> CliError:
    """The failure of a request that goes through the member's kubelet, which may be what can't be reached."""
    if 0 < error.status < 500:
        return CliError(f"{what}: {error.message}")
    placed = {item.name: item for item in session.living_hub().status.members}.get(member)
    node = f" on node {placed.node}" if placed and placed.node else ""
    return CliError(f"{what}: member {member}{node} can't be reached: {error.message}")
