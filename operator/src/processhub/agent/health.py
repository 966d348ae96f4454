"""What the member's probes are answered: whether the agent works, and whether the member is ready."""

from __future__ import annotations

from processhub.agent.lease import LeaseKeeper
from processhub.agent.permit import Permit
from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.agent.supervisor import Supervisor


class Health:
    """The health of one member."""

    def __init__(self, lease: LeaseKeeper, slices: SliceWatcher, permit: Permit, supervisor: Supervisor) -> None:
        self._lease, self._slices, self._permit, self._supervisor = lease, slices, permit, supervisor
        self._begun = False  # each child of its beginning has started or failed once

    def healthy(self) -> bool:
        """Whether the Lease's thread lives; that this is answered shows that the main loop does."""
        return self._lease.alive

    def ready(self) -> str:
        """Empty where the member is ready, else what it waits for."""
        if not self._slices.ready:
            return "this member's slices are not read yet"
        if not self._permit.held:
            return "the member's Lease is not held"
        # Those of its beginning, which a rollout waits for: a later child that starts slowly is a matter of its own.
        self._begun = self._begun or self._supervisor.all_settled
        return "" if self._begun else "some children have neither started nor failed yet"
