"""Observations for tests, each made twice: the same facts must give the same observation, and must not change."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Set
from typing import Any

import msgspec
from a_round import a_round

from processhub.api.hub import Hub
from processhub.controller.observe.facts import Facts, learn
from processhub.controller.observe.members import Member
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation, observe
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.slices import KnownSlice
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
    before = frozen(facts)
    first = observe(facts)
    assert frozen(facts) == before, "observe() changes nothing of its facts"
    again = observe(facts)
    assert alike(again, first), "the same facts give the same observation"
    return first


def frozen(value: Any) -> bytes:
    """Return all that a value consists of. It is equal later if the value is the same object and nothing changed."""
    stored = io.BytesIO()
    _Pickler(stored).dump(value)
    return stored.getvalue()


class _Pickler(pickle.Pickler):
    """Leaves out what slices keep of what follows from them."""

    def reducer_override(self, value: Any) -> Any:
        """Return how the value is made again."""
        if isinstance(value, KnownSlice):
            return object.__new__, (KnownSlice,), _lasting(value)
        return NotImplemented


def _lasting(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, without what is only kept of what follows from the others."""
    return {name: item for name, item in vars(value).items() if name != "_derived"}


def alike(one: Any, other: Any) -> bool:
    """Return whether two values have the same contents. What both share is not looked at."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, str | int | float | Set):
        return bool(one == other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, msgspec.Struct):
        return all(alike(getattr(one, field), getattr(other, field)) for field in one.__struct_fields__)
    own = alike_items(_lasting(one), _lasting(other)) if hasattr(one, "__dict__") else True
    if isinstance(one, Mapping):
        return own and alike_items(one, other)
    return own if hasattr(one, "__dict__") else bool(one == other)


def alike_items(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Return whether two mappings have the same keys, with values of the same contents."""
    return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
