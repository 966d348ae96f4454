"""A member's slices and its Lease, as the operator creates them."""

from __future__ import annotations

import msgspec

from processhub.api.hub import Hub
from processhub.api.kubernetes import Lease, LeaseSpec
from processhub.api.meta import ObjectMeta, OwnerReference
from processhub.api.naming import ANNOTATION_MODE, LABEL_HUB_UID, LABEL_MEMBER, label_value, lease_name, slice_name
from processhub.api.slice import RegistrySlice, Settings, SliceSpec
from processhub.controller.objects.owned import owner_reference, selector_labels


def slice_settings(hub: Hub, *, partitioned: bool) -> Settings:
    """The settings in the members' slices: parts of the Hub's spec, and whether the hub has lost its quorum."""
    timeouts, restarts, migration = hub.spec.timeouts, hub.spec.restarts, hub.spec.migration
    on_demand = hub.spec.on_demand
    return Settings(
        start_seconds=timeouts.start_seconds,
        stop_seconds=timeouts.stop_seconds,
        lease_seconds=timeouts.lease_seconds,
        request_seconds=timeouts.request_seconds,
        restarts_max=restarts.max,
        restarts_window_seconds=restarts.window_seconds,
        handover_seconds=migration.handover_timeout_seconds if migration.hands_over else 0,
        redundancy_signal=hub.spec.redundancy.redundancy_signal,
        fence=hub.spec.partition_tolerance.strategy != "Divergence",
        partitioned=partitioned,
        suspended=hub.spec.suspend,
        max_children=hub.spec.members.max_children,
        on_demand=on_demand is not None,
        on_demand_max=(on_demand.max or 0) if on_demand else 0,
        on_owner_lost_local=on_demand is not None and on_demand.on_owner_lost == "Local",
    )


def new_slice(
    hub: Hub, member: str, index: int, term: int, annotations: dict[str, str], *, holder: str, partitioned: bool
) -> RegistrySlice:
    """An empty slice of a member."""
    metadata = _metadata(hub, slice_name(hub.metadata.name, member, index), member)
    metadata = msgspec.structs.replace(metadata, annotations=annotations)
    spec = SliceSpec(
        hub=hub.metadata.name,
        hub_uid=hub.metadata.uid,
        member=member,
        mode=hub.spec.members.mode,
        holder=holder,
        term=term,
        settings=slice_settings(hub, partitioned=partitioned),
    )
    return RegistrySlice(metadata=metadata, spec=spec)


def new_lease(hub: Hub, member: str) -> Lease:
    """A member's Lease, without a holder."""
    metadata = _metadata(hub, lease_name(hub.metadata.name, member), member)
    return Lease(
        metadata=msgspec.structs.replace(metadata, annotations=lease_annotations(hub, member)),
        spec=LeaseSpec(lease_duration_seconds=hub.spec.timeouts.lease_seconds),
    )


def lease_annotations(hub: Hub, member: str) -> dict[str, str]:
    """The annotations of a member's Lease, which the admission policy and the operator read."""
    return {ANNOTATION_MODE: hub.spec.members.mode, LABEL_MEMBER: member}


def member_labels(hub: Hub, member: str) -> dict[str, str]:
    """The labels of a member's slices and Lease."""
    return {**selector_labels(hub), LABEL_HUB_UID: hub.metadata.uid, LABEL_MEMBER: label_value(member)}


def member_owners(hub: Hub) -> tuple[OwnerReference, ...]:
    """The owners of a member's slices and Lease: the Hub, so that they are deleted with it."""
    return (msgspec.convert(owner_reference(hub), OwnerReference),)


def _metadata(hub: Hub, name: str, member: str) -> ObjectMeta:
    return ObjectMeta(
        name=name,
        namespace=hub.metadata.namespace,
        labels=member_labels(hub, member),
        owner_references=member_owners(hub),
    )
