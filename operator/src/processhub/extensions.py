"""Users' own strategies: found by entry points, loaded once a process."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

import msgspec

from processhub.core.acceptance import MIGRATIONS, PARTITIONS, REDUNDANCIES, STRATEGIES
from processhub.core.distribution import Strategy
from processhub.core.distribution.own import Own
from processhub.core.migration import OwnMigration
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
log = logging.getLogger(__name__)


class Loaded(msgspec.Struct, frozen=True):
    """What a group's entry points came to: strategies by name, and why others could not be loaded."""

    found: Mapping[str, object]
    failed: Mapping[str, str]


def load(group: str, base: type) -> Loaded:
    """Every entry point of the group, made; each must name a class derived from ``base``."""
    found: dict[str, object] = {}
    failed: dict[str, str] = {}
    for point in entry_points(group=group):
        try:
            found[point.name] = _made(point, base)
        except Exception as error:  # noqa: BLE001 one bad package must not keep the operator from starting; it is told
            failed[point.name] = f"{type(error).__name__}: {error}"
            log.warning("entry point %s of group %s can't be used: %s", point.name, group, failed[point.name])
    return Loaded(found, failed)


def _made(point: EntryPoint, base: type) -> object:
    kind = point.load()
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise TypeError(f"{point.value} is no class derived from {base.__module__}.{base.__qualname__}")
    return kind()


class OwnStrategies(msgspec.Struct, frozen=True):
    """The users' strategies of each kind by name, and why others, of whatever kind, can't be used."""

    distribution: Mapping[str, Strategy]
    redundancy: Mapping[str, Redundancy]
    migration: Mapping[str, OwnMigration]
    partition: Mapping[str, Partition]
    failed: Mapping[str, str]


@functools.cache
def own_strategies() -> OwnStrategies:
    """All of them; one that has the name of ProcessHub's own is left out."""
    failed: dict[str, str] = {}
    ranks = _loaded(DISTRIBUTION, Distribution, STRATEGIES, failed)  # type: ignore[type-abstract]  # what is derived from it is asked for
    ways = _loaded(MIGRATION, Migration, MIGRATIONS, failed)  # type: ignore[type-abstract]  # as above
    return OwnStrategies(
        distribution={name: Own(name, made) for name, made in ranks.items()},
        redundancy=_loaded(REDUNDANCY, Redundancy, REDUNDANCIES, failed),  # type: ignore[type-abstract]  # as above
        migration={name: OwnMigration(name, made) for name, made in ways.items()},
        partition=_loaded(PARTITION, Partition, PARTITIONS, failed),  # type: ignore[type-abstract]  # as above
        failed=failed,
    )


def _loaded(group: str, base: type[T], built_in: Collection[str], failed: dict[str, str]) -> dict[str, T]:
    loaded = load(group, base)
    failed.update(loaded.failed)
    usable: dict[str, T] = {}
    for name, made in loaded.found.items():
        if name in built_in:
            failed[name] = "ProcessHub's own strategy has that name"
            log.warning("entry point %s of group %s is left out: %s", name, group, failed[name])
        elif isinstance(made, base):
            usable[name] = made
    return usable
