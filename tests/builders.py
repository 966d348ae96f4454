"""Builders of the objects that many tests need: hubs, children, Leases, slices, members and API clients.

A builder returns a complete and valid object. A test names only the fields that it is about. The defaults fit together:
they are those of the hub ``hub`` in the namespace ``ns``, of its member ``hub-0`` and of that member's first slice. The
planner's input is built by ``planned_hub.py``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

from processhub.api.child import Child, ChildSpec, ChildStatus
from processhub.api.hub import Hub, HubSpec, HubStatus
from processhub.api.kubernetes import Lease, LeaseSpec, Pod
from processhub.api.meta import ObjectMeta
from processhub.api.naming import lease_name, slice_name
from processhub.api.slice import Activation, RegistrySlice, Settings, SliceSpec, SliceStatus
from processhub.cluster.client import Client
from processhub.cluster.config import Config
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.controller.store.children import KnownChild
from processhub.controller.store.leases import KnownLease
from processhub.controller.store.slices import KnownSlice
from processhub.core.model.membership import Judgement, Phase
from processhub.core.model.quorum import Verdict
from processhub.core.model.snapshot import HubSnapshot, OnRecord
from processhub.registry.grammar import Assignment, Report, format_assignment, format_report

HUB, HUB_UID, NAMESPACE, MEMBER = "hub", "hub-uid", "ns", "hub-0"
NO_SERVER = "http://127.0.0.1:9"  # the discard port: nothing listens there
QUORATE = Verdict(required=0, live=1, largest_seen=1, quorate=True, partitioned=False, reason="", why="")


def loopback(number: int) -> str:
    """Return one of four addresses that no other test process has, for servers on a fixed port."""
    place = (os.getpid() * 4 + number) & 0xFFFF
    return f"127.1.{place >> 8}.{place & 0xFF}"


def make_hub(
    name: str = HUB,
    spec: HubSpec | Mapping[str, Any] | None = None,
    *,
    status: HubStatus | Mapping[str, Any] | None = None,
    namespace: str = NAMESPACE,
    uid: str = HUB_UID,
    **metadata: Any,
) -> Hub:
    """Return a Hub. Spec and status are structs, or mappings as in a manifest."""
    return Hub(
        metadata=ObjectMeta(name=name, namespace=namespace, uid=uid, **metadata),
        spec=msgspec.convert(spec or {}, HubSpec),
        status=msgspec.convert(status or {}, HubStatus),
    )


def make_child(
    name: str = "a",
    spec: ChildSpec | Mapping[str, Any] | None = None,
    *,
    hub: str = HUB,
    status: ChildStatus | Mapping[str, Any] | None = None,
    namespace: str = NAMESPACE,
    uid: str = "u",
    **metadata: Any,
) -> Child:
    """Return a Child. Spec and status are structs, or mappings as in a manifest, the spec without its ``hub``."""
    if not isinstance(spec, ChildSpec):
        spec = msgspec.convert({"hub": hub, **(spec or {})}, ChildSpec)
    return Child(
        metadata=ObjectMeta(name=name, namespace=namespace, uid=uid, **metadata),
        spec=spec,
        status=msgspec.convert(status or {}, ChildStatus),
    )


def make_lease(
    member: str = MEMBER, holder: str = "", *, hub: str = HUB, namespace: str = NAMESPACE, **spec: Any
) -> Lease:
    """Return a member's Lease; ``spec`` are further fields of the LeaseSpec."""
    metadata = ObjectMeta(name=lease_name(hub, member), namespace=namespace, uid=f"lease-{member}")
    return Lease(metadata=metadata, spec=LeaseSpec(holder_identity=holder, **spec))


def make_slice(
    entries: Mapping[str, Assignment | str] | None = None,
    reports: Mapping[str, Report | str] | None = None,
    *,
    member: str = MEMBER,
    index: int = 0,
    hub: str = HUB,
    hub_uid: str = HUB_UID,
    term: int = 1,
    workloads: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    granted_to: str = "",
    holder: str = "",
    address: str = "",
    port: int = 8080,
    observed_generation: int | None = None,
    status: SliceStatus | None = None,
    activation: Activation | None = None,
    **metadata: Any,
) -> RegistrySlice:
    """Return a member's slice number ``index`` with its agent's reports; both by id, as text or not yet formatted.

    ``granted_to`` is the holder in the spec. ``holder``, ``address``, ``port`` and ``observed_generation`` (by default
    the slice's generation) are those in the status, unless a whole ``status`` is given.
    """
    name = slice_name(hub, member, index)
    found = ObjectMeta(**{"name": name, "namespace": NAMESPACE, "uid": name, "generation": 1, **metadata})
    texts = {id_: text if isinstance(text, str) else format_assignment(text) for id_, text in (entries or {}).items()}
    reported = {id_: text if isinstance(text, str) else format_report(text) for id_, text in (reports or {}).items()}
    return RegistrySlice(
        metadata=found,
        spec=SliceSpec(
            hub=hub,
            hub_uid=hub_uid,
            member=member,
            term=term,
            holder=granted_to,
            settings=settings or Settings(),
            workloads=dict(workloads or {}),
            entries=texts,
            activation=activation or msgspec.UNSET,
        ),
        status=status
        or SliceStatus(
            observed_generation=found.generation if observed_generation is None else observed_generation,
            holder=holder,
            address=address,
            port=port,
            entries=reported,
        ),
    )


def reports_of(item: Mapping[str, Any]) -> Mapping[str, str]:
    """The reports of a slice as JSON, by id."""
    return msgspec.convert(item.get("status", {}), SliceStatus).reports


def known_slice(*versions: RegistrySlice) -> KnownSlice:
    """Return a slice as the operator knows it after these versions of it."""
    known = KnownSlice()
    for version in versions:
        known.update(version)
    return known


def make_member(
    name: str = MEMBER,
    *slices: KnownSlice | RegistrySlice,
    phase: Phase = Phase.LIVE,
    wanted: bool = True,
    holder: str | None = None,
    lease: KnownLease | None = None,
    pod: Pod | None = None,
    restarting: bool = False,
) -> Member:
    """Return a member as the operator sees it. With a ``holder`` it has a Lease that this one holds."""
    if holder is not None:
        lease = KnownLease(make_lease(name, holder), 0.0)
    return Member(
        name=name,
        wanted=wanted,
        weight=1,
        pod=pod,
        lease=lease,
        slices=tuple(item if isinstance(item, KnownSlice) else known_slice(item) for item in slices),
        judgement=Judgement(phase, draining=False, restarting=restarting, recheck_seconds=None, why=""),
    )


def make_observation(
    spec: HubSpec | None = None,
    members: Mapping[str, Member] | None = None,
    *,
    record: Mapping[str, tuple[OnRecord, ...]] | None = None,
    chosen: Mapping[str, KnownChild] | None = None,
    quorum: Verdict = QUORATE,
) -> Observation:
    """Return the operator's observation of a hub without planned children."""
    snapshot = HubSnapshot(spec=spec or HubSpec(), members=(), children={}, record=record or {}, next_epoch=10)
    return Observation(
        members=dict(members or {}), snapshot=snapshot, refusals={}, chosen=dict(chosen or {}), quorum=quorum
    )


async def _no_token() -> str | None:
    return None


def make_client(host: object = NO_SERVER, namespace: str = NAMESPACE, **options: Any) -> Client:
    """Return a client of the API server at this URL; without one, a client that reaches none."""
    return Client(Config(host=str(host).rstrip("/"), namespace=namespace, ssl=False, token=_no_token), **options)


@asynccontextmanager
async def client_of(app: web.Application, **options: Any) -> AsyncIterator[Client]:
    """Run an API server that responds like this application, and yield a client of it."""
    async with TestServer(app, shutdown_timeout=0.1) as server, make_client(server.make_url(""), **options) as client:
        yield client
