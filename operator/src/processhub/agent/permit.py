"""The permit to start children and serve requests, by the member's Lease (docs/protocol.md, rule 9)."""

from __future__ import annotations

from processhub.agent.lease.keeper import LeaseKeeper
from processhub.agent.registry.slicewatcher import SliceWatcher


class Permit:
    """The permit of one member. It is given when the Lease is held and the slices were read after it was taken."""

    def __init__(self, lease: LeaseKeeper, slices: SliceWatcher) -> None:
        self._lease, self._slices = lease, slices
        self._session = 0  # the session of the Lease in which the slices were read
        self.given_once = False
        self.closing = self.withdrawn = False

    def give(self, session: int) -> None:
        """Permit starts while the Lease is held in this session, in which the slices were read."""
        self._session, self.given_once = session, True

    def close(self) -> None:
        """Permit no further start: the agent is shutting down."""
        self.closing = True

    def withdraw(self) -> None:
        """Take the permit back for as long as this agent lives: it begins anew by what etcd was restored to."""
        self.closing = self.withdrawn = True

    @property
    def held(self) -> bool:
        """Whether the Lease is held in the session in which the slices were read."""
        return not self.withdrawn and self._lease.held(self._session)

    def may_start(self, *, again: bool) -> bool:
        """Whether the Lease allows a start now; ``again``: of a child that this agent has run before.

        With Divergence such a child is restarted even during an outage. All other starts need a valid Lease.
        """
        if again and self.given_once and not (self.withdrawn or self._slices.settings.fence):
            return True
        return self.held

    def may_serve(self) -> bool:
        """Whether requests may be handed to this member's children now."""
        return self.may_start(again=True)

    def may_take_over(self) -> bool:
        """Whether children of other members may be started here now."""
        return self.held and not self.closing
