"""The quorum of a hub from round to round: the members lately live, the most ever live, whether it is partitioned.

The facts that must outlive a leader are on record. The slices say that the hub is partitioned. Hub.status has the most
members ever live and the number required. The members lately live are not on record. A new leader starts with those
that it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_QUORUM_RESET
from processhub.controller.observe.members import Member
from processhub.controller.store.hubstate import HubState
from processhub.core.model.membership import Phase
from processhub.core.model.quorum import QuorumFacts, Seen, Verdict, quorum


class QuorumWatch:
    """The quorum of one hub. ``partitioned`` is the value for its slices, ``live`` the members that were live last."""

    def __init__(self, hub: Hub, state: HubState) -> None:
        on_record = hub.status.quorum
        self.partitioned = any(
            known.present.spec.settings.partitioned
            for known in state.slices.values()
            if known.present.spec.hub_uid == hub.metadata.uid
        )
        self.announced = self.partitioned  # By the latest Event.
        self.live: set[str] = set()
        self._largest = on_record.largest_seen if on_record else 0
        self._at_least = on_record.required if on_record and self.partitioned else 0
        self._last_live: dict[str, float] = {}  # member → monotonic seconds
        self._reset = ""  # The value of the reset annotation that was carried out.

    def look(
        self,
        hub: Hub,
        members: Mapping[str, Member],
        formed: bool,
        now: float,
        custom: Callable[[Seen], int] | None = None,
    ) -> Verdict:
        """Judge the quorum at ``now`` (monotonic seconds). ``custom`` is the requirement of a custom strategy."""
        spec = hub.spec.partition_tolerance
        # A member whose Lease can't be read counts as it did: nothing is known of it.
        unread = {name for name, member in members.items() if member.unread}
        live = {name for name, member in members.items() if member.phase is Phase.LIVE or member.judgement.serving}
        live |= self.live & unread
        self.live = live
        renewing = {name for name in live if (lease := members[name].lease) is not None and lease.renewing}
        counted = renewing if self.partitioned else live
        if (order := hub.metadata.annotations.get(ANNOTATION_QUORUM_RESET, "")) and order != self._reset:
            self._reset, self._largest, self._at_least = order, 0, 0
            self._last_live.clear()
        self._last_live.update(dict.fromkeys(counted, now))
        if not self.partitioned:
            self._forget(members, now - spec.threshold_seconds)
        verdict = quorum(
            spec,
            QuorumFacts(
                live=len(live),
                renewing=len(renewing),
                recent=len(self._last_live),
                largest_seen=self._largest,
                at_least=self._at_least,
                partitioned=self.partitioned,
                formed=formed,
            ),
            custom(self._seen(members, len(counted))) if custom is not None else None,
        )
        if self.partitioned and not verdict.partitioned:
            self._at_least = 0
        self.partitioned, self._largest = verdict.partitioned, verdict.largest_seen
        return verdict

    def _seen(self, members: Mapping[str, Member], counted: int) -> Seen:
        return Seen(
            wanted=sum(member.wanted for member in members.values()),
            recent=len(self._last_live),
            largest_seen=max(self._largest, counted),
        )

    def reset_done(self, hub: Hub) -> bool:
        """Whether a reset was carried out and is in Hub.status, so that its annotation may be removed."""
        order = hub.metadata.annotations.get(ANNOTATION_QUORUM_RESET, "")
        reported = hub.status.quorum
        return bool(order) and order == self._reset and reported is not None and reported.largest_seen == self._largest

    def _forget(self, members: Mapping[str, Member], before: float) -> None:
        """Drop the members last live before this time, and those that were scaled down, as these did not fail."""
        for name, seen in list(self._last_live.items()):
            member = members.get(name)
            leaving = member is None or (not member.wanted and member.phase is not Phase.LIVE)
            if seen < before or leaving:
                del self._last_live[name]
