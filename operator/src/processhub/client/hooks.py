"""Registers and cancels hooks of a running hub, by its annotation. Its spec, which has hooks too, is not changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from processhub.api.hooks import Hook, PythonHandler, Webhook
from processhub.api.hub import HookStatus, Hub
from processhub.api.meta import find_condition
from processhub.api.naming import ANNOTATION_HOOKS
from processhub.api.nulls import without_nulls
from processhub.api.registeredhooks import (
    RegisteredHooks,
    RegisteredHooksError,
    format_registered_hooks,
    observed_mark,
    parse_registered_hooks,
)
from processhub.api.wording import wrong
from processhub.client.annotations import Annotations, change_annotations
from processhub.client.errors import InvalidHook, Timeout, names
from processhub.client.session import Session
from processhub.client.writes import with_retries
from processhub.cluster.errors import InvalidError
from processhub.cluster.informer import version_of
from processhub.cluster.kinds import HUBS

TAKEN_SECONDS = 15.0  # time within which an operator must apply the edit
_POLL_SECONDS = 0.05
_PARTS: dict[str, type[msgspec.Struct]] = {"webhook": Webhook, "python": PythonHandler}


def parse_hooks(given: Iterable[Mapping[str, Any]]) -> tuple[Hook, ...]:
    """Parse hooks, each written as in a manifest. Raises InvalidHook."""
    hooks: dict[str, Hook] = {}
    if isinstance(given, Mapping | str):
        raise InvalidHook("hooks are given as a list, each a mapping with name, event and webhook or python")
    for index, entry in enumerate(given):
        where = f"hooks[{index}]"
        if not isinstance(entry, Mapping):
            raise InvalidHook(f"{where}: expected a mapping with name, event and webhook or python, got {entry!r}")
        _check_fields(entry, Hook, where)
        for part, kind in _PARTS.items():
            if isinstance(entry.get(part), Mapping):
                _check_fields(entry[part], kind, f"{where}.{part}")
        try:
            hook = msgspec.convert(without_nulls(entry, Hook), Hook)
        except msgspec.ValidationError as error:
            raise InvalidHook(f"{where}: {wrong(error, entry, Hook)}") from error
        if (hook.webhook is None) == (hook.python is None):
            raise InvalidHook(f"{where} ({hook.name!r}): give exactly one of webhook and python")
        if hook.name in hooks:
            raise InvalidHook(f"{where}: the name {hook.name!r} is there twice; give each hook a name of its own")
        hooks[hook.name] = hook
    if not hooks:
        raise InvalidHook("no hooks given; name at least one")
    return tuple(hooks.values())


async def register(session: Session, hooks: tuple[Hook, ...]) -> None:
    """Add the hooks, and wait until the operator has applied them.

    Raises InvalidHook, HubNotFound, Timeout, ApiError.
    """
    ours = {hook.name for hook in hooks}

    def added(hub: Hub, present: RegisteredHooks) -> RegisteredHooks:
        if taken := sorted(ours & {hook.name for hook in present.in_effect(hub.spec.hooks)}):
            raise InvalidHook(
                f"hub {session.name} has a hook {names(taken)} already; cancel that, or take another name"
            )
        return msgspec.structs.replace(present, registered=(*_without(present.registered, ours), *hooks))

    await _check(session, hooks)
    hub = await _observed(session, await _edit(session, added))
    rejected = {hook.name: hook.message for hook in (hub.status.hooks or HookStatus()).rejected}
    if refused := [rejected[hook.name] for hook in hooks if hook.name in rejected]:
        await _edit(
            session, lambda _, present: msgspec.structs.replace(present, registered=_without(present.registered, ours))
        )
        raise InvalidHook(f"not registered: {'; '.join(refused)}")


async def cancel(session: Session, wanted: Iterable[str]) -> None:
    """Cancel the hooks of these names, and wait until the operator has applied that.

    Raises InvalidHook if one does not exist, or if the hub is reconciled by an earlier spec that has another hook of
    that name; HubNotFound, Timeout, ApiError.
    """
    if isinstance(wanted, str):
        raise InvalidHook(f"names is the text {wanted!r}; write a list, [{wanted!r}]")
    gone = set(wanted)

    def left(hub: Hub, present: RegisteredHooks) -> RegisteredHooks:
        there = [hook.name for hook in present.in_effect(hub.spec.hooks)]
        if strangers := gone - set(there):
            raise InvalidHook(f"hub {session.name} has no hook {names(strangers)}; there are: {names(there) or 'none'}")
        declared = tuple(hook for hook in hub.spec.hooks if hook.name in gone)
        return RegisteredHooks(
            registered=_without(present.registered, gone), cancelled=(*_without(present.cancelled, gone), *declared)
        )

    hub = await _observed(session, await _edit(session, left))
    if still := gone & set((hub.status.hooks or HookStatus()).in_effect):
        raise InvalidHook(
            f"hook {names(still)} of hub {session.name} is cancelled, but the hub is reconciled by an earlier spec, "
            f"which has another hook of that name: {_refused(hub)}"
        )


def _without(hooks: tuple[Hook, ...], gone: Collection[str]) -> tuple[Hook, ...]:
    return tuple(hook for hook in hooks if hook.name not in gone)


async def _edit(session: Session, change: Callable[[Hub, RegisteredHooks], RegisteredHooks]) -> Hub:
    """Write the changed annotation; returns the Hub as stored. Raises InvalidHook, HubNotFound, Timeout, ApiError."""

    def changed(hub: Hub) -> Annotations:
        try:
            present = parse_registered_hooks(hub.metadata)
        except RegisteredHooksError as error:
            raise InvalidHook(f"hub {session.name}: {error}; mend it, or remove it") from error
        # A copy that differs from spec.hooks has no effect any more. Kept, it would have one if the edit were undone.
        cancelled = tuple(hook for hook in present.cancelled if hook in hub.spec.hooks)
        after = change(hub, msgspec.structs.replace(present, cancelled=cancelled))
        return {ANNOTATION_HOOKS: format_registered_hooks(after)}

    hub, _ = await change_annotations(session, HUBS, session.name, changed)
    return hub


async def _check(session: Session, hooks: tuple[Hook, ...]) -> None:
    """Have the API server check the hooks as those of spec.hooks, by a dry run. Raises InvalidHook, ApiError."""
    patch = {"metadata": {"uid": session.living_hub().metadata.uid}, "spec": {"hooks": hooks}}
    try:
        await with_retries(partial(session.client.patch, HUBS, session.namespace, session.name, patch, dry_run=True))
    except InvalidError as error:
        raise InvalidHook(f"hub {session.name} rejects the hooks: {error.message}") from error


async def _observed(session: Session, edited: Hub) -> Hub:
    """Wait until the operator has observed the edit, or a later one; returns the Hub with the result."""
    try:
        async with asyncio.timeout(TAKEN_SECONDS):
            while True:
                hub = session.living_hub()
                seen = version_of(hub.metadata.resource_version) >= version_of(edited.metadata.resource_version)
                if seen and (hub.status.hooks or HookStatus()).observed == observed_mark(hub.metadata):
                    return hub
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise Timeout(
            f"the hooks of hub {session.name} are written, but no operator applied them within {TAKEN_SECONDS:g} s"
        ) from None


def _refused(hub: Hub) -> str:
    accepted = find_condition(hub.status.conditions, "Accepted")
    return accepted.message if accepted is not None and accepted.status == "False" else ""


def _check_fields(given: Mapping[str, Any], kind: type[msgspec.Struct], where: str) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    if unknown := sorted(str(field) for field in given if field not in known):
        raise InvalidHook(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
