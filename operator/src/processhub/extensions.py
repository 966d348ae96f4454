"""Users' own code in the operator: strategies and hook handlers, found by entry points, loaded once a process.

The packages that are installed beside ProcessHub decide what is available. A Hub only names an entry point: the name is
looked up, and never imported or called.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

import msgspec

from processhub.core.acceptance import MIGRATIONS, PARTITIONS, REDUNDANCIES, STRATEGIES
from processhub.core.strategies import Strategy
from processhub.core.strategies.custom import CustomDistribution
from processhub.core.strategies.migration import CustomMigration
from processhub.strategies import (
    DISTRIBUTION,
    MIGRATION,
    PARTITION,
    REDUNDANCY,
    Distribution,
    Migration,
    Partition,
    Redundancy,
)

T = TypeVar("T")
HOOKS = "processhub.hooks"  # the group of the entry points of hook handlers
Handler = Callable[[dict[str, Any], dict[str, Any]], Any]
log = logging.getLogger(__name__)


class Loaded(msgspec.Struct, Generic[T], frozen=True):
    """The entry points of a group: those that can be used, by name, and why others can't."""

    found: Mapping[str, T]
    failed: Mapping[str, str]


def load(group: str, make: Callable[[EntryPoint], T]) -> Loaded[T]:
    """Load every entry point of the group with ``make``. If that raises, the error is why it can't be used."""
    found: dict[str, T] = {}
    failed: dict[str, str] = {}
    for point in entry_points(group=group):
        try:
            found[point.name] = make(point)
        except Exception as error:  # noqa: BLE001 one bad package must not keep the controller from starting; it is reported
            failed[point.name] = f"{type(error).__name__}: {error}"
            log.warning("entry point %s of group %s can't be used: %s", point.name, group, failed[point.name])
    return Loaded(found, failed)


@functools.cache
def hook_handlers() -> Loaded[Handler]:
    """The functions that ``python.handler`` of a hook may name."""
    return load(HOOKS, _function)


def _function(point: EntryPoint) -> Handler:
    handler: Handler = point.load()
    if not callable(handler):
        raise TypeError(f"{point.value} is not a function")
    return handler


def _instance(base: type[T]) -> Callable[[EntryPoint], T]:
    """A function that makes an object of an entry point's class, which must be derived from ``base``."""

    def make(point: EntryPoint) -> T:
        kind = point.load()
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise TypeError(f"{point.value} is not a class derived from {base.__module__}.{base.__qualname__}")
        return kind()

    return make


class OwnStrategies(msgspec.Struct, frozen=True):
    """The users' strategies of each kind, by name, and why others, of any kind, can't be used."""

    distribution: Mapping[str, Strategy]
    redundancy: Mapping[str, Redundancy]
    migration: Mapping[str, CustomMigration]
    partition: Mapping[str, Partition]
    failed: Mapping[str, str]


@functools.cache
def own_strategies() -> OwnStrategies:
    """Load all strategies. One with the name of a built-in strategy is left out."""
    failed: dict[str, str] = {}
    ranks = _loaded(DISTRIBUTION, Distribution, STRATEGIES, failed)  # type: ignore[type-abstract]  # what is derived from it is asked for
    ways = _loaded(MIGRATION, Migration, MIGRATIONS, failed)  # type: ignore[type-abstract]  # as above
    return OwnStrategies(
        distribution={name: CustomDistribution(name, made) for name, made in ranks.items()},
        redundancy=_loaded(REDUNDANCY, Redundancy, REDUNDANCIES, failed),  # type: ignore[type-abstract]  # as above
        migration={name: CustomMigration(name, made) for name, made in ways.items()},
        partition=_loaded(PARTITION, Partition, PARTITIONS, failed),  # type: ignore[type-abstract]  # as above
        failed=failed,
    )


def _loaded(group: str, base: type[T], built_in: Collection[str], failed: dict[str, str]) -> dict[str, T]:
    loaded = load(group, _instance(base))
    failed.update(loaded.failed)
    usable: dict[str, T] = {}
    for name, made in loaded.found.items():
        if name in built_in:
            failed[name] = "ProcessHub's own strategy has that name"
            log.warning("entry point %s of group %s is left out: %s", name, group, failed[name])
        else:
            usable[name] = made
    return usable
