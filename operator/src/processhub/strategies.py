"""What to derive a strategy of your own from.

A strategy is a class in a package of yours, installed beside ProcessHub in the operator's image (and where
``kubectl hub plan`` and ``explain`` are to know it), named by an entry point::

    [project.entry-points."processhub.distribution"]
    ByRegion = "my_package.strategies:ByRegion"

A Hub then says ``spec.distribution.strategy: ByRegion``; ``spec.redundancy.strategy``, ``spec.migration.strategy`` and
``spec.partitionTolerance.strategy`` likewise. The class is made once, without arguments, and asked for many hubs. Its
methods must be functions of their arguments alone, quick and without I/O: they run in the operator's only thread. Where
one raises, the hub goes on as its docstring says and gets an Event StrategyFailed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from processhub.core.model.quorum import Seen
from processhub.core.strategies.custom import Child, Member
from processhub.core.strategies.migration import MigrationMode as Way
from processhub.core.strategies.migration import PossibleMove as Move

__all__ = [
    "DISTRIBUTION",
    "MIGRATION",
    "PARTITION",
    "REDUNDANCY",
    "Child",
    "Distribution",
    "Member",
    "Migration",
    "Move",
    "Partition",
    "Redundancy",
    "Seen",
    "Way",
]

# The entry-point groups.
DISTRIBUTION = "processhub.distribution"
REDUNDANCY = "processhub.redundancy"
MIGRATION = "processhub.migration"
PARTITION = "processhub.partition"


class Distribution(ABC):
    """Which members a child goes to: the base of strategies in the group ``processhub.distribution``.

    A new child goes to the first member of its rank that is ready and has room (maxChildren; loadCapPercent too unless
    ``respects_load_cap`` is False). So do the children of a member that was lost or is drained. A member that joins
    draws the children that have it before their present one, at ``maxMovesPerSecond``; children whose ranks change for
    another reason stay where they are. Members of weight 0 get none.
    """

    respects_load_cap: bool = True
    """Whether a new child passes over a member that is above the hub's loadCapPercent."""

    @abstractmethod
    def rank(self, child: Child, members: Sequence[Member]) -> Sequence[str]:
        """The names of the members that may have the child, best first. One that is not named never gets it.

        ``members`` are all that the hub shall have, in ordinal order (PerNode: by name), those that are not ready too.
        It is called for each child that is placed, and for all when a member joins. Where it raises, the child goes by
        the hash.
        """


class Redundancy(ABC):
    """How many copies each child has: the base of strategies in the group ``processhub.redundancy``.

    Where they go is the distribution strategy's, which of them is active ``spec.redundancy.replicationModel``'s. Not
    with Guided, where each child names its members.
    """

    @abstractmethod
    def copies(self, members: Sequence[Member]) -> int:
        """At least 1; more than there are ready members means one on each. Asked in every round.

        ``members`` are all that the hub shall have; only name, weight and ready are filled in. Copies are started and
        stopped when the number changes, so it had better not hang on who is ready at the moment. Where it raises, the
        number stays as it was.
        """


class Migration(ABC):
    """How a child changes its member: the base of strategies in the group ``processhub.migration``.

    Otherwise the hub is as with HotSwap: ``onRestart`` left out is Move, and a member that ends waits up to
    ``handoverTimeoutSeconds`` until its children have gone. Not asked where a hub keeps several copies of a child: one
    more starts before one ends.
    """

    @abstractmethod
    def way(self, child: Child, move: Move) -> Way:
        """``Way.COLD``: it starts afresh; ``Way.HOT``: its state goes along; ``Way.LATER``: it stays for now.

        It is asked when a move could begin, in more than one round. A child can stay only where ``move.by_choice`` (a
        member joined, weights or strategy changed, loads differ), and is asked for again after 30 s. Off a member that
        is emptied, or where somebody ordered the move, LATER is taken as HOT. Where it raises, that is as LATER.
        """


class Partition(ABC):
    """How many members a hub needs: the base of strategies in the group ``processhub.partition``.

    With fewer live ones the hub is partitioned, as with the quorum strategies: members stop their children before their
    Lease runs out, nothing is started, and all is back when enough members are.
    """

    @abstractmethod
    def required(self, seen: Seen) -> int:
        """At least 1. Asked in every round. Where it raises, more than half of ``seen.largest_seen`` are required."""
