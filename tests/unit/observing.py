"""Observations for tests, each made twice: the same facts must give the same observation, and must not change."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import Enum
from typing import Any

import msgspec
from a_round import a_round

from processhub.api.hub import Hub
from processhub.controller.observe.facts import Facts, learn
from processhub.controller.observe.members import Member
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation, observe
from processhub.controller.store.hubstate import HubState
from processhub.core.strategies import HASH, Strategy


def observed(
    hub: Hub,
    state: HubState,
    members: Mapping[str, Member],
    memory: ObserveMemory,
    now: float = 0.0,
    strategy: Strategy = HASH,
) -> Observation:
    """Return the observation of the hub in a round at ``now``."""
    return observed_by(learn(a_round(hub, state, now=lambda: now), memory, members, strategy))


def observed_by(facts: Facts) -> Observation:
    """Return the observation of these facts."""
    before = plain(facts)
    first = observe(facts)
    assert plain(facts) == before, "observe() changes nothing of its facts"
    again = observe(facts)
    assert plain(again) == plain(first), "the same facts give the same observation"
    return first


def plain(value: Any) -> Any:
    """Return a deep copy of a value, of types that compare by their contents, without what follows from the rest."""
    if value is None or isinstance(value, str | int | float | Enum):
        return value
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, [plain(getattr(value, field)) for field in value.__struct_fields__]
    if isinstance(value, Mapping):
        own = {name: plain(item) for name, item in vars(value).items()} if hasattr(value, "__dict__") else {}
        return {plain(key): plain(item) for key, item in value.items()}, own
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, Set):
        return frozenset(plain(item) for item in value)
    if hasattr(value, "__dict__"):
        return type(value).__name__, {name: plain(item) for name, item in vars(value).items() if name != "_derived"}
    return value
