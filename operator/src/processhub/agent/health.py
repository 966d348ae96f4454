"""The answers to the member's probes: whether the agent works, and whether the member is ready."""

from __future__ import annotations

from processhub.agent.lease.keeper import LeaseKeeper
from processhub.agent.permit import Permit
from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.agent.supervisor import Supervisor
from processhub.agent.tls.identity import MemberTls


class Health:
    """The health of one member."""

    def __init__(
        self, lease: LeaseKeeper, slices: SliceWatcher, permit: Permit, supervisor: Supervisor, tls: MemberTls
    ) -> None:
        self._lease, self._slices, self._permit, self._supervisor = lease, slices, permit, supervisor
        self._tls = tls
        self._begun = False  # whether each of the member's first children has run or failed once

    def healthy(self) -> bool:
        """Whether the thread that renews the Lease works. The answer itself shows that the main loop works."""
        return self._lease.alive

    def ready(self) -> str:
        """The reason why the member is not ready; "" if it is."""
        if not self._slices.ready:
            return "this member's slices are not read yet"
        if self._permit.withdrawn:
            return "etcd was restored to an earlier time: the agent begins anew in a while"
        if not self._permit.held:
            return "the member's Lease is not held"
        if self._tls.missing:
            return "the operator has not issued this member's certificate yet"
        # Only the first children count: a rollout waits for them, but not for a child that starts slowly later.
        self._begun = self._begun or self._supervisor.all_settled
        return "" if self._begun else "some children have neither started nor failed yet"
