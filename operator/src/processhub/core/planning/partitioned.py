"""The plan of a hub that has lost its quorum: nothing is started or moved, and what is on record stays there.

Members run nothing while their slices say that the hub is partitioned (docs/protocol.md, rule 6). So the record needs
no change: when the quorum is back, each child starts again where it was, or elsewhere by the ordinary rules if its
member is gone. What nobody wants any more still comes off the record, and what is suspended meanwhile is put to sleep.
"""

from __future__ import annotations

from processhub.api.reasons import Reason
from processhub.core.model.plan import Plan, Unplaced
from processhub.core.model.snapshot import HubSnapshot
from processhub.core.planning.builder import PlanBuilder


def plan_partitioned(snapshot: HubSnapshot) -> Plan:
    """The plan of a partitioned hub; ``snapshot.partitioned`` says why."""
    builder = PlanBuilder(snapshot)
    builder.joining.clear()  # members that return keep what they have: that is no join
    builder.remove_unwanted()
    for child_id, child in snapshot.children.items():
        if child_id in snapshot.uncertain:
            continue
        for place in snapshot.record.get(child_id, ()):
            if place.entry.uid != child.uid:
                builder.put(place.member, child_id, None)
            elif child.suspended and place.member in builder.members and not (place.entry.wait or place.entry.to):
                # The ends of a move stay as they are: which of them is kept is for the plan with a quorum to say.
                builder.put_to_sleep(child, place, place.entry.state)
    builder.stranded.clear()
    why = Unplaced(Reason.PARTITIONED, f"the hub has lost its quorum: {snapshot.partitioned}")
    builder.unplaced = dict.fromkeys(snapshot.to_run, why)
    return builder.result()
