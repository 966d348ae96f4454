"""Acceptance of Hubs: whether a Hub is reconciled, and by which spec: its present one, or the last accepted one."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

import msgspec

from processhub.api.hooks import Hook
from processhub.api.hub import HookStatus, Hub, HubSpec, RejectedHook
from processhub.api.reasons import Reason
from processhub.api.registeredhooks import RegisteredHooks, RegisteredHooksError, observed_mark, parse_registered_hooks
from processhub.controller.hooks.hubhooks import Receivers
from processhub.controller.memory import HubMemory
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.informers import Store
from processhub.core.acceptance import Refusal, invalid, refuse_hub, refuse_registered_hook
from processhub.extensions import OwnStrategies

REGISTERED_MAX = 64  # Hooks that clients may register in one hub, as many as spec.hooks may have.
_NAME_MAX, _MESSAGE_MAX = 63, 1024  # Characters, by the schema of status.hooks.


class HubAcceptance:
    """The check of all Hubs against the strategies and hook handlers that this operator has."""

    def __init__(self, store: Store, custom: OwnStrategies, receivers: Receivers) -> None:
        self._store, self._custom, self._receivers = store, custom, receivers

    def admit(self, hub: Hub, state: HubState, memory: HubMemory) -> Hub | Refusal:
        """The Hub with the spec to reconcile it by, or the refusal.

        If an edit is refused and this leader has accepted an earlier spec, that spec is used.
        """
        refusal = memory.refused_edit = self._refusal(hub, state)
        if refusal is None:
            memory.accepted = hub
            return self._with_hooks(hub, memory)
        if memory.accepted is None or _of_earlier_hub(state) is not None:
            mark = observed_mark(hub.metadata)
            memory.report.hooks = HookStatus(observed=mark) if mark else None
            return refusal
        return self._with_hooks(msgspec.structs.replace(hub, spec=memory.accepted.spec), memory)

    def _with_hooks(self, hub: Hub, memory: HubMemory) -> Hub:
        """The Hub with the hooks that are in effect: those of its spec and of its annotation."""
        mark = observed_mark(hub.metadata)
        if memory.hooks is None or memory.hooks[0] is not hub.spec or memory.hooks[1] != mark:
            spec, memory.report.hooks = self._hooks_of(hub)
            memory.hooks = hub.spec, mark, spec
        return msgspec.structs.replace(hub, spec=memory.hooks[2])

    def _hooks_of(self, hub: Hub) -> tuple[HubSpec, HookStatus | None]:
        mark = observed_mark(hub.metadata)
        if not mark and not hub.spec.hooks:
            return hub.spec, None
        rejected: dict[str, str] = {}
        try:
            given = parse_registered_hooks(hub.metadata)
        except RegisteredHooksError as error:
            given = RegisteredHooks()
            rejected[""] = str(error)
        usable: dict[str, Hook] = {}
        for hook in given.registered:
            if why := self._why_not(hook, usable.keys()):
                rejected[hook.name] = why
            else:
                usable[hook.name] = hook
        hooks = msgspec.structs.replace(given, registered=tuple(usable.values())).in_effect(hub.spec.hooks)
        shown = tuple(
            RejectedHook(name=name[:_NAME_MAX], message=why[:_MESSAGE_MAX])
            for name, why in islice(rejected.items(), REGISTERED_MAX)
        )
        status = HookStatus(in_effect=tuple(hook.name for hook in hooks), rejected=shown, observed=mark)
        if not mark:
            return hub.spec, status
        return msgspec.structs.replace(hub.spec, hooks=hooks), status

    def _why_not(self, hook: Hook, names: Collection[str]) -> str:
        """Why a registered hook can't be called, or ""."""
        if hook.name in names:
            return f"hook {hook.name!r} is there twice; give each hook a name of its own"
        if len(names) >= REGISTERED_MAX:
            return f"hook {hook.name!r}: the hub has {REGISTERED_MAX} registered hooks already; cancel one"
        if why := refuse_registered_hook(hook):
            return f"hook {hook.name!r}: {why}"
        refusal = self._receivers.refusal(HubSpec(hooks=(hook,)))
        return refusal.message.removeprefix("spec.hooks ") if refusal else ""

    def refusal_of_spec(self, hub: Hub) -> Refusal | None:
        """Why the Hub's spec is not accepted; None if it is."""
        custom, spec = self._custom, hub.spec
        refusal = refuse_hub(spec, custom.distribution, custom.redundancy, custom.partition, custom.migration)
        refusal = refusal or self._receivers.refusal(spec)
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
            return invalid(f"the hub can't be read: {broken[1]}")
        if refusal := self.refusal_of_spec(hub):
            return refusal
        return _of_earlier_hub(state)


def _of_earlier_hub(state: HubState) -> Refusal | None:
    """The refusal while an earlier hub of this name has left objects that may run children; None if there are none."""
    # What appears once members of this hub run is removed too, but the hub works meanwhile.
    left = next(iter(state.leftovers()), "") if not state.begun else ""
    return Refusal(Reason.NAME_CONFLICT, f"{left}; started when it is gone") if left else None
