"""The base classes of users' own strategies.

A strategy is a class in a package of yours, installed beside ProcessHub in the operator's image (and where ``kubectl
hub plan`` and ``explain`` run, if they should know it). An entry point names it::

    [project.entry-points."processhub.distribution"]
    ByRegion = "my_package.strategies:ByRegion"

A Hub then selects it with ``spec.distribution.strategy: ByRegion``. ``spec.redundancy.strategy``,
``spec.migration.strategy`` and ``spec.partitionTolerance.strategy`` work in the same way. The class is instantiated
once, without arguments, and serves many hubs. Its methods must depend on their arguments alone, be quick and do no I/O:
they run in the operator's only thread. If one raises, the hub continues as its docstring says and gets an Event
StrategyFailed.
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
    """Chooses the members of a child: the base of strategies in the group ``processhub.distribution``.

    A new child goes to the first member in its ranking that is ready and has room (maxChildren; also loadCapPercent,
    unless ``respects_load_cap`` is False). So do the children of a member that was lost or is drained. A member that
    joins draws the children that rank it before their present member, at ``maxMovesPerSecond``. Children whose ranking
    changes for another reason stay where they are. Members of weight 0 get none.
    """

    respects_load_cap: bool = True
    """Whether a new child skips a member that is above the hub's loadCapPercent."""

    @abstractmethod
    def rank(self, child: Child, members: Sequence[Member]) -> Sequence[str]:
        """Rank the members that may have the child, best first, by name. A member that is not named never gets it.

        ``members`` are all that the hub should have, in ordinal order (PerNode: by name), including those that are not
        ready. The method is called for each child that is placed, and for all children when a member joins. If it
        raises, the child is placed by the hash.
        """


class Redundancy(ABC):
    """Says how many copies each child has: the base of strategies in the group ``processhub.redundancy``.

    The distribution strategy decides where the copies go, and ``spec.redundancy.replicationModel`` which of them is
    active. It can't be combined with Guided, where each child names its members.
    """

    @abstractmethod
    def copies(self, members: Sequence[Member]) -> int:
        """Return the number of copies: at least 1; more than there are ready members means one on each.

        The method is called in every round. ``members`` are all that the hub should have, with only name, weight and
        ready filled in. Copies are started and stopped when the number changes, so it should not depend on which
        members are ready at the moment. If it raises, the number stays as it was.
        """


class Migration(ABC):
    """Says how a child is moved: the base of strategies in the group ``processhub.migration``.

    In other respects the hub works as with HotSwap: ``onRestart`` is Move by default, and a member that ends waits up
    to ``handoverTimeoutSeconds`` until its children have left. It is not asked in a hub that keeps several copies of a
    child: there a new copy starts before an old one ends.
    """

    @abstractmethod
    def way(self, child: Child, move: Move) -> Way:
        """``Way.COLD``: the child starts afresh; ``Way.HOT``: its state goes along; ``Way.LATER``: it stays for now.

        The method is called when a move could begin, in more than one round. A child can stay only if
        ``move.by_choice`` is true (a member joined, weights or strategy changed, loads differ). It is then asked about
        again after 30 s. If its member is emptied or the move was requested, LATER means HOT. If the method raises,
        that means LATER.
        """


class Partition(ABC):
    """Says how many members a hub needs: the base of strategies in the group ``processhub.partition``.

    With fewer live members the hub is partitioned, as with the quorum strategies. Members stop their children before
    their Lease expires, and nothing is started. All children return when enough members are live.
    """

    @abstractmethod
    def required(self, seen: Seen) -> int:
        """Return the number of members, at least 1.

        The method is called in every round. If it raises, more than half of ``seen.largest_seen`` are required.
        """
