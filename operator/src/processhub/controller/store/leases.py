"""The member Leases of one hub, with the times at which they were seen to change."""

from __future__ import annotations

import msgspec

from processhub.api.kubernetes import Lease, LeaseSpec
from processhub.api.meta import ObjectMeta
from processhub.api.naming import LABEL_HUB_UID, LABEL_MEMBER, lease_name
from processhub.core.model.membership import LEASE_GRACE_SECONDS

# The holder of a Lease that was deleted, where nothing says who held it. No agent has this name: each waits for the end
# of the Lease before it takes it.
UNKNOWN_HOLDER = "unknown"


class KnownLease(msgspec.Struct, frozen=True):
    """A member Lease, and when (monotonic seconds) it was last seen to be renewed.

    ``renewing``: whether a renewal was seen since the clocks were started, and not only a Lease that was held before.
    ``changed_at``: when the Lease was last seen to change, even if the clocks were restarted since.
    """

    lease: Lease
    renewed_at: float
    renewing: bool = False
    changed_at: float = 0.0


class Leases(dict[str, KnownLease]):
    """The member Leases of one hub, by object name.

    ``older``: those of an earlier Hub of its name. ``unwatched``: the names of those that left the watch with a holder.
    """

    def __init__(self, hub: str) -> None:
        super().__init__()
        self._hub = hub
        self.older: dict[str, KnownLease] = {}
        self.unwatched: set[str] = set()

    def put(self, lease: Lease, now: float, hub_uid: str) -> None:
        """Take a member Lease, seen ``now`` (monotonic seconds). One that the operator did not create is ignored.

        ``hub_uid``: of the present or latest Hub, "" until one is seen.
        """
        known = self.get(lease.metadata.name)
        if hub_uid and (known is None or known.lease.metadata.uid != lease.metadata.uid):
            # A known Lease stays the member's, even without its marks, because its holder renews it.
            made_for = hub_of_lease(lease, self._hub)
            if made_for != hub_uid:
                if made_for:
                    self.older[lease.metadata.name] = _seen(self.older.get(lease.metadata.name), lease, now)
                return
        self.older.pop(lease.metadata.name, None)
        self[lease.metadata.name] = _seen(known, lease, now)
        self.unwatched.discard(lease.metadata.name)

    def unwatch(self, name: str, keep: bool) -> None:
        """Note that a member Lease left the watch: it was deleted, or has lost its label.

        This proves nothing about its holder (docs/protocol.md, rule 10). With ``keep``, which is for Leases of the
        present Hub, it is kept as it was until it exists again or has expired.
        """
        self.older.pop(name, None)
        known = self.get(name)
        if known is None:
            return
        if known.lease.spec.holder_identity and keep:
            self.unwatched.add(name)
        else:
            self.forget(name)

    def add_missing(self, member: str, holder: str, seconds: int, hub: ObjectMeta, now: float) -> None:
        """Add a Lease that a member of this Hub must have had, as one that left the watch ``now``."""
        name = lease_name(self._hub, member)
        labels, annotations = {LABEL_HUB_UID: hub.uid}, {LABEL_MEMBER: member}
        metadata = ObjectMeta(name=name, namespace=hub.namespace, labels=labels, annotations=annotations)
        spec = LeaseSpec(holder_identity=holder, lease_duration_seconds=seconds)
        self[name] = KnownLease(Lease(metadata=metadata, spec=spec), now, changed_at=now)
        self.unwatched.add(name)

    def forget(self, name: str) -> None:
        """Forget the Lease of a member that is gone for good, or of a hub that is."""
        self.pop(name, None)
        self.unwatched.discard(name)

    def belong_to(self, hub_uid: str) -> None:
        """Take the uid of the Hub, and set the Leases of an earlier one aside."""
        for name, held in list(self.items()):
            if (made_for := hub_of_lease(held.lease, self._hub)) != hub_uid:
                self.forget(name)
                if made_for:
                    self.older[name] = held

    def restart_clocks(self, now: float) -> None:
        """Restart the clocks of all Leases, as they could not be observed until ``now`` (docs/protocol.md, rule 11)."""
        for leases in (self, self.older):
            for name, known in leases.items():
                leases[name] = KnownLease(known.lease, now, changed_at=known.changed_at)

    def of_member(self, member: str) -> KnownLease | None:
        """The member's Lease."""
        return self.get(lease_name(self._hub, member))


def over_in(known: KnownLease, now: float, lease_seconds: int, *, observed: bool) -> float:
    """Seconds until the Lease proves that its holder runs nothing: it is released, or expires without a renewal.

    ``lease_seconds`` is the Hub's; the longer one of it and the Lease's own counts. ``observed``: whether a renewal
    would have been seen (docs/protocol.md, rule 11).
    """
    spec = known.lease.spec
    if not spec.holder_identity:
        return 0.0
    limit = max(lease_seconds, spec.lease_duration_seconds or 0) + LEASE_GRACE_SECONDS
    return max(0.0, limit - (now - known.renewed_at)) if observed else limit


def _seen(known: KnownLease | None, lease: Lease, now: float) -> KnownLease:
    """The Lease as it is seen ``now``, after ``known`` was seen."""
    renewed = known is not None and known.lease.metadata.uid == lease.metadata.uid
    if known is not None and renewed and known.lease.spec == lease.spec:
        return KnownLease(lease, known.renewed_at, known.renewing, known.changed_at)
    return KnownLease(lease, now, renewed, now)


def member_of(lease: Lease) -> str:
    """The member to which a Lease belongs. The annotation is read first, because a label's value may be shortened."""
    return lease.metadata.annotations.get(LABEL_MEMBER) or lease.metadata.labels.get(LABEL_MEMBER, "")


def hub_of_lease(lease: Lease, hub: str) -> str:
    """The uid of the Hub for which the operator created this member Lease, or "" if it did not.

    The owner reference decides. Without one the labels do, if the Lease has the name of a member's.
    """
    metadata = lease.metadata
    for owner in metadata.owner_references:
        if (owner.kind, owner.name) == ("Hub", hub):
            return owner.uid
    member = member_of(lease)
    named = member and metadata.name == lease_name(hub, member)
    return metadata.labels.get(LABEL_HUB_UID, "") if named else ""
