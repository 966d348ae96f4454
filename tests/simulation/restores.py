"""Turns in which etcd is restored to an earlier time, while users and callers go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .world import World

if TYPE_CHECKING:
    from .hands import Act, Hands

_APART_SECONDS = 60.0  # longer than agents take to begin anew


def restores(seed: int) -> bool:
    """Whether etcd is restored in a turn of this seed; every other seed with copies that are all active has one."""
    return seed % 13 == 6 or (seed % 13 == 4 and seed // 26 % 2 == 0)


def replaces_members(seed: int) -> bool:
    """Whether Pods of members are deleted in that turn."""
    return seed // 13 % 3 == 0


class Restores:
    """An administrator who takes backups and restores them.

    Not while a member is away: an agent that starts at the moment of a restore does not wait for what others run
    (docs/protocol.md, rule 4).
    """

    def __init__(self, hands: Hands, world: World, seed: int) -> None:
        self._hands, self._world, self._replaces = hands, world, replaces_members(seed)
        self._backups = [world.server.version]
        self._again_at = 0.0

    @property
    def acts(self) -> tuple[Act, ...]:
        """The acts of the turn, with their weights."""
        return ((6, self._back_up), (3, self._restore), *self._hands.acts_beside_restores(members=self._replaces))

    def _back_up(self) -> None:
        self._backups.append(self._world.server.version)

    def _restore(self) -> None:
        world, now = self._world, self._world.loop.time()
        away = any(not pod.container.ready or pod.container.process.paused for pod in world.running_pods)
        if away or now < self._again_at:
            return
        self._again_at = now + _APART_SECONDS
        backup = self._hands.rng.choice(self._backups)
        if self._hands.rng.random() < 0.5:  # a member of etcd that is made a cluster of its own lacks the last moments
            backup = max(self._backups[0], world.server.version - self._hands.rng.randint(1, 12))
        world.trace.fault("etcd", f"is restored to version {backup}, and was at {world.server.version}")
        world.restore(backup, self._hands.rng.choice((0, 10, 50)))
        self._backups = [version for version in self._backups if version <= backup]
