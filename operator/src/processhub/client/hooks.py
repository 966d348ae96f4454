"""Registers and cancels hooks of a running hub, by edits of its spec.hooks that keep the edits of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from processhub.api.hooks import Hook, PythonHandler, Webhook
from processhub.api.hub import Hub
from processhub.api.meta import find_condition
from processhub.client.errors import HubNotFound, InvalidHook, Timeout, names
from processhub.client.session import Session
from processhub.client.wording import wrong
from processhub.client.writes import with_retries
from processhub.cluster.errors import ConflictError, InvalidError, NotFoundError
from processhub.cluster.kinds import HUBS

TAKEN_SECONDS = 15.0  # time within which an operator must apply the edit
_TRIES = 20  # attempts; each may conflict with another write of the Hub, including that of its status
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
            hook = msgspec.convert(entry, Hook)
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

    def added(present: tuple[Hook, ...]) -> tuple[Hook, ...]:
        there = {hook.name for hook in present}
        if taken := [hook.name for hook in hooks if hook.name in there]:
            raise InvalidHook(
                f"hub {session.name} has a hook {names(taken)} already; cancel that, or take another name"
            )
        return (*present, *hooks)

    before = _refused(session.living_hub())
    try:
        edited = await _edit(session, added)
    except InvalidError as error:
        raise InvalidHook(f"hub {session.name} rejects the hooks: {error.message}") from error
    hub = await _observed(session, edited)
    if before is None and (refused := _refused(hub)) is not None:
        # The operator applies no later edit of a Hub that is not accepted, which is worse than a hub without these
        # hooks.
        ours = {hook.name for hook in hooks}
        await _edit(session, lambda present: tuple(hook for hook in present if hook.name not in ours))
        raise InvalidHook(f"not registered: {refused}")


async def cancel(session: Session, wanted: Iterable[str]) -> None:
    """Remove the hooks of these names, and wait until the operator has applied that.

    Raises InvalidHook if one does not exist, or if the spec that they are removed from is not in effect; HubNotFound,
    Timeout, ApiError.
    """
    if isinstance(wanted, str):
        raise InvalidHook(f"names is the text {wanted!r}; write a list, [{wanted!r}]")
    gone = set(wanted)

    def left(present: tuple[Hook, ...]) -> tuple[Hook, ...]:
        if strangers := gone - {hook.name for hook in present}:
            there = names(hook.name for hook in present) or "none"
            raise InvalidHook(f"hub {session.name} has no hook {names(strangers)}; there are: {there}")
        return tuple(hook for hook in present if hook.name not in gone)

    hub = await _observed(session, await _edit(session, left))
    if (refused := _refused(hub)) is not None and not _is_followed(hub):
        hooks = names(repr(name) for name in gone)
        raise InvalidHook(
            f"hub {session.name} has no hook {hooks} in its spec any more, but that spec is not in effect: {refused}"
        )


async def _edit(session: Session, change: Callable[[tuple[Hook, ...]], tuple[Hook, ...]]) -> Hub:
    """Write the changed hooks and return the Hub. If another write came first, the change is made again."""
    for _ in range(_TRIES):
        try:
            hub = await session.client.get(HUBS, session.namespace, session.name)
        except NotFoundError as error:
            raise HubNotFound(f"hub {session.name} in namespace {session.namespace} was deleted") from error
        metadata = {"uid": hub.metadata.uid, "resourceVersion": hub.metadata.resource_version}
        patch = {"metadata": metadata, "spec": {"hooks": change(hub.spec.hooks)}}
        try:
            return await with_retries(partial(session.client.patch, HUBS, session.namespace, session.name, patch))
        except ConflictError:
            await asyncio.sleep(_POLL_SECONDS)  # the Hub was written after it was read
    raise Timeout(f"hub {session.name} is edited too often: its hooks could not be changed in {_TRIES} attempts")


async def _observed(session: Session, edited: Hub) -> Hub:
    """Wait until the operator has observed the edit; returns the Hub, whose hooks are in effect then."""
    try:
        async with asyncio.timeout(TAKEN_SECONDS):
            while True:
                hub = session.living_hub()
                if hub.status.observed_generation >= edited.metadata.generation:
                    return hub
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise Timeout(
            f"the hooks of hub {session.name} are written, but no operator applied them within {TAKEN_SECONDS:g} s"
        ) from None


def _refused(hub: Hub) -> str | None:
    accepted = find_condition(hub.status.conditions, "Accepted")
    return accepted.message if accepted is not None and accepted.status == "False" else None


def _is_followed(hub: Hub) -> bool:
    """Whether the hub is reconciled by its present spec. A hub whose only error is in its template is."""
    ready = find_condition(hub.status.conditions, "Ready")
    return ready is None or ready.observed_generation >= hub.status.observed_generation


def _check_fields(given: Mapping[str, Any], kind: type[msgspec.Struct], where: str) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    if unknown := sorted(str(field) for field in given if field not in known):
        raise InvalidHook(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
