"""The proofs that a child has ended (docs/protocol.md, rules 7 and 23).

Until its end is proven, nothing of a child may start elsewhere: a member may still run it, or a Pod.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

from processhub.api.reasons import Reason
from processhub.core.listing import MemberNames
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import HubSnapshot, MemberView, OnRecord


class EndProofs:
    """The proofs of the ends of one hub's children, by its members and its Pods."""

    def __init__(self, snapshot: HubSnapshot, members: Mapping[str, MemberView]) -> None:
        self._snapshot, self._members = snapshot, members
        self._settled = all(member.settled or member.phase is Phase.GONE for member in snapshot.members)
        self._possibly_running: dict[str, list[str]] = {}  # id → the members that may still run it
        for member in snapshot.members:
            for child_id in () if member.phase is Phase.GONE else member.possibly_running:
                self._possibly_running.setdefault(child_id, []).append(member.name)

    @cached_property
    def _late_members(self) -> MemberNames:
        return MemberNames(member.name for member in self._snapshot.members if not member.settled)

    def may_run(self, child_id: str, member: str) -> bool:
        """Whether the child may run on this member beside what is on record."""
        return not self._members[member].settled or member in self._possibly_running.get(child_id, ())

    def blocked(
        self, child_id: str, besides: Collection[str] = (), besides_pods_of: Collection[str] = ()
    ) -> Unplaced | None:
        """Why ``child_id`` may not start or become active yet: a member may still run it, or a Pod.

        A child counts as ended only with proof (docs/protocol.md, rules 7 and 23). Members in ``besides`` are not
        considered, nor are Pods that were created for members in ``besides_pods_of``.
        """
        if not self._settled:
            return Unplaced(
                Reason.WAITING, f"waiting until {self._late_members.some} confirmed what it runs after a leader change"
            )
        for name in self._possibly_running.get(child_id, ()):
            if name not in besides:
                return Unplaced(
                    Reason.ALREADY_STARTED, f"an earlier {child_id!r} has not yet been seen to stop on {name}"
                )
        for pod in self._snapshot.pods.get(child_id, ()):
            if pod.member not in besides_pods_of:
                return pod_there(child_id, pod.text)
        for on_record in self._snapshot.record.get(child_id, ()):
            holder = self._members.get(on_record.member)
            if on_record.member not in besides and holder is not None and holder.phase is not Phase.GONE:
                return Unplaced(Reason.ALREADY_STARTED, f"{child_id!r} is still on record on {on_record.member}")
        return None

    def passive_pods(self, child_id: str, places: Collection[OnRecord]) -> set[str]:
        """The members, of these places, whose Pods of the child are passive and always were."""
        pods = self._snapshot.pods.get(child_id, ())
        return {
            place.member
            for place in places
            if all(pod.passive_for(place) for pod in pods if pod.member == place.member)
        }


def pod_there(child_id: str, text: str) -> Unplaced:
    """The reason for a child that must wait for the end of a Pod."""
    return Unplaced(
        Reason.ALREADY_STARTED, f"an earlier {child_id!r} has not yet been seen to stop: its pod {text} is still there"
    )
