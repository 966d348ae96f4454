"""The member Leases of one hub, with the times at which they were seen to change."""

from __future__ import annotations

import msgspec

from processhub.api.kubernetes import Lease
from processhub.api.naming import LABEL_HUB_UID, LABEL_MEMBER, lease_name


class KnownLease(msgspec.Struct, frozen=True):
    """A member Lease and when (monotonic seconds) its renewal was seen to change.

    ``renewing``: that was seen since the clocks were started, and not only a Lease that somebody held before.
    ``changed_at``: when it was last seen to change, whatever was done with the clocks since.
    """

    lease: Lease
    renewed_at: float
    renewing: bool = False
    changed_at: float = 0.0


class Leases(dict[str, KnownLease]):
    """The member Leases of one hub, by object name.

    ``older``: those of an earlier Hub of its name. ``unwatched``: the names of those that were held when they left the
    watch.
    """

    def __init__(self, hub: str) -> None:
        super().__init__()
        self._hub = hub
        self.older: dict[str, Lease] = {}
        self.unwatched: set[str] = set()

    def put(self, lease: Lease, now: float, hub_uid: str) -> None:
        """Take a member Lease, seen ``now`` (monotonic seconds); one that the operator can't have made is nobody's.

        ``hub_uid`` is of the Hub that there is, or was last; "" until one is seen.
        """
        known = self.get(lease.metadata.name)
        if hub_uid and (known is None or known.lease.metadata.uid != lease.metadata.uid):
            # One that is known is the member's whatever became of its marks: its holder renews it.
            made_for = hub_of_lease(lease, self._hub)
            if made_for != hub_uid:
                if made_for:
                    self.older[lease.metadata.name] = lease
                return
        same = known is not None and known.lease.metadata.uid == lease.metadata.uid and known.lease.spec == lease.spec
        renewed_at = known.renewed_at if known is not None and same else now
        renewing = known is not None and (known.renewing if same else known.lease.metadata.uid == lease.metadata.uid)
        changed_at = known.changed_at if known is not None and same else now
        self[lease.metadata.name] = KnownLease(lease, renewed_at, renewing, changed_at)
        self.unwatched.discard(lease.metadata.name)

    def unwatch(self, name: str, keep: bool) -> None:
        """A member Lease left the watch: it was deleted, or somebody took its label off.

        That proves nothing of the one who held it (docs/protocol.md, rule 10): of the hub that there is (``keep``) it
        is kept as it was, until it is there again or has run out.
        """
        self.older.pop(name, None)
        known = self.get(name)
        if known is None:
            return
        if known.lease.spec.holder_identity and keep:
            self.unwatched.add(name)
        else:
            self.forget(name)

    def forget(self, name: str) -> None:
        """Its member is gone for good, or the hub is."""
        self.pop(name, None)
        self.unwatched.discard(name)

    def belong_to(self, hub_uid: str) -> None:
        """The Hub of this name has this uid: Leases of another are none of its own, here as for members."""
        for name, held in list(self.items()):
            if (made_for := hub_of_lease(held.lease, self._hub)) != hub_uid:
                self.forget(name)
                if made_for:
                    self.older[name] = held.lease

    def restart_clocks(self, now: float) -> None:
        """Count afresh: Leases could not be observed until ``now`` (docs/protocol.md, rule 11)."""
        for name, known in self.items():
            self[name] = KnownLease(known.lease, now, changed_at=known.changed_at)

    def of_member(self, member: str) -> KnownLease | None:
        """The member's Lease."""
        return self.get(lease_name(self._hub, member))


def hub_of_lease(lease: Lease, hub: str) -> str:
    """The uid of the Hub for which the operator made this member Lease, "" where it can't have made it.

    Its owner says so, whatever became of its labels. Without an owner its labels do, on a Lease of a member's name.
    """
    metadata = lease.metadata
    for owner in metadata.owner_references:
        if (owner.kind, owner.name) == ("Hub", hub):
            return owner.uid
    member = metadata.annotations.get(LABEL_MEMBER) or metadata.labels.get(LABEL_MEMBER, "")
    named = member and metadata.name == lease_name(hub, member)
    return metadata.labels.get(LABEL_HUB_UID, "") if named else ""
