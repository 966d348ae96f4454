"""The plan of a hub that has lost its quorum: nothing is started or moved, and entries stay where they are.

Members run nothing while their slices say that the hub is partitioned (docs/protocol.md, rule 6). So the record needs
no change. When the quorum is back, each child starts again where it was. If its member is gone, it is placed by the
ordinary rules. Two things are still done: entries of deleted children are removed, and children that are suspended
meanwhile are put to sleep.
"""

from __future__ import annotations

from processhub.api.reasons import Reason
from processhub.core.model.plan import Plan, Unplaced
from processhub.core.model.snapshot import HubSnapshot
from processhub.core.planning.builder import PlanBuilder
from processhub.core.strategies import HASH


def plan_partitioned(snapshot: HubSnapshot) -> Plan:
    """Plan a partitioned hub; ``snapshot.partitioned`` is the reason."""
    builder = PlanBuilder(snapshot, HASH)
    builder.joining.clear()  # members that return keep what they have, which is not a join
    builder.remove_unwanted()
    for child_id, child in snapshot.children.items():
        if child_id in snapshot.uncertain:
            continue
        for place in snapshot.record.get(child_id, ()):
            if place.entry.uid != child.uid:
                builder.put(place.member, child_id, None)
            elif child.suspended and place.member in builder.members and not (place.entry.wait or place.entry.to):
                # Both ends of a move stay as they are. The plan with a quorum decides which of them is kept.
                builder.put_to_sleep(child, place, place.entry.state)
    builder.stranded.clear()
    why = Unplaced(Reason.PARTITIONED, f"the hub has lost its quorum: {snapshot.partitioned}")
    builder.unplaced = dict.fromkeys(snapshot.to_run, why)
    return builder.result()
