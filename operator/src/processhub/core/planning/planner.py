"""The planner: from one snapshot of a hub it makes a plan, the changes to the slices.

It is pure: the controller, ``kubectl hub plan``, the model checker and the benchmarks call the same function. Placement
is sticky: a child on record stays where it is.

- A child gets an entry only when no other member may still run its id, and a new uid only after the old one's end
  (docs/protocol.md, rule 7).
- A planned move writes the waiting entry first, removes the source's in a later round, and starts the target when the
  source is proven stopped (docs/protocol.md, rule 8).
- A member that is GONE loses its entries at once, except for bound children, which wait for it (docs/protocol.md,
  rules 10 and 17).
- A join moves children only onto the joining member, and only if it ranks above their present member
  (docs/protocol.md, rule 18).
- A suspended child runs nowhere and keeps its place, with its room, to be resumed there (docs/protocol.md, rule 8).
"""

from __future__ import annotations

from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import HubSnapshot
from processhub.core.planning.partitioned import plan_partitioned
from processhub.core.planning.replicated import ReplicaPlanner
from processhub.core.planning.single import SingleCopyPlanner
from processhub.core.planning.steady import SteadyChildren
from processhub.core.strategies import Strategy, strategy_of
from processhub.core.strategies.migration import MigrationStrategy, migration_of


def plan(
    snapshot: HubSnapshot,
    strategy: Strategy | None = None,
    migration: MigrationStrategy | None = None,
    steady: SteadyChildren | None = None,
) -> Plan:
    """Plan the changes to make now. Executing and planning again, round by round, ends with an empty plan.

    ``strategy`` and ``migration`` are needed if the hub's are users' own. Without them KeyError is raised. ``steady``
    is what earlier plans of this hub know of its children; the plan is the same without it.
    """
    if snapshot.partitioned:
        return plan_partitioned(snapshot)
    strategy = strategy or strategy_of(snapshot.spec.distribution.strategy)
    if snapshot.spec.keeps_copies:
        replicas = ReplicaPlanner(snapshot, strategy)
        replicas.remove_unwanted()
        replicas.follow_children()
        replicas.apply_move_requests()
        replicas.top_up()
        replicas.rebalance()
        return replicas.result()
    migration = migration or migration_of(snapshot.spec.migration.strategy)
    planner = SingleCopyPlanner(snapshot, strategy, migration, steady)
    planner.remove_unwanted()
    planner.follow_children()
    planner.place_new()
    planner.apply_move_requests()
    planner.drain()
    planner.rebalance()
    planner.detect_imbalance()
    return planner.result()
