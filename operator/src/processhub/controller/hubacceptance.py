"""Acceptance of Hubs: whether a Hub is reconciled, and by which spec: its present one, or the last accepted one."""

from __future__ import annotations

import msgspec

from processhub.api.hub import Hub
from processhub.api.reasons import Reason
from processhub.controller.hooks.hubhooks import Hooks
from processhub.controller.memory import HubMemory
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.informers import Store
from processhub.core.acceptance import Refusal, refuse_hub
from processhub.extensions import OwnStrategies


class HubAcceptance:
    """The check of all Hubs against the strategies and hook handlers that this operator has."""

    def __init__(self, store: Store, custom: OwnStrategies, hooks: Hooks) -> None:
        self._store, self._custom, self._hooks = store, custom, hooks

    def admit(self, hub: Hub, state: HubState, memory: HubMemory) -> Hub | Refusal:
        """The Hub with the spec to reconcile it by, or the refusal.

        If an edit is refused and this leader has accepted an earlier spec, that spec is used.
        """
        refusal = memory.refused_edit = self._refusal(hub, state)
        if refusal is None:
            memory.accepted = hub
            return hub
        if memory.accepted is None or _of_earlier_hub(state) is not None:
            return refusal
        return msgspec.structs.replace(hub, spec=memory.accepted.spec)

    def refusal_of_spec(self, hub: Hub) -> Refusal | None:
        """Why the Hub's spec is not accepted; None if it is."""
        custom, spec = self._custom, hub.spec
        refusal = refuse_hub(
            spec, custom.distribution, custom.redundancy, custom.partition, custom.migration
        ) or self._hooks.refusal(spec)
        if refusal is None or refusal.reason is not Reason.UNKNOWN_STRATEGY:
            return refusal
        names = (
            spec.distribution.strategy,
            spec.redundancy.strategy,
            spec.migration.strategy,
            spec.partition_tolerance.strategy,
        )
        why = next((custom.failed[name] for name in names if name in custom.failed), None)
        if why is None:
            return refusal
        return msgspec.structs.replace(refusal, message=f"{refusal.message}; its entry point can't be used: {why}")

    def _refusal(self, hub: Hub, state: HubState) -> Refusal | None:
        if broken := self._store.broken_hubs.get(hub.metadata.key):
            return Refusal(Reason.INVALID, f"the hub can't be read: {broken[1]}")
        if refusal := self.refusal_of_spec(hub):
            return refusal
        return _of_earlier_hub(state)


def _of_earlier_hub(state: HubState) -> Refusal | None:
    """The refusal while an earlier hub of this name has left objects that may run children; None if there are none."""
    # What appears once members of this hub run is removed too, but the hub goes on meanwhile.
    left = next(iter(state.leftovers()), "") if not state.begun else ""
    return Refusal(Reason.NAME_CONFLICT, f"{left}; started when it is gone") if left else None
