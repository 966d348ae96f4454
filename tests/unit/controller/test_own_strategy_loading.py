"""Users' own strategies: how they are found, and how the planner uses their ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from planned_hub import PlannedHub, child, hub_spec

from builders import make_hub
from ownstrategy import installed
from processhub import extensions
from processhub.api.hub import Hub, HubSpec
from processhub.api.reasons import Reason
from processhub.controller.observe.customrules import CustomRules
from processhub.core.acceptance import refuse_hub
from processhub.core.model.placement import Candidate, rank
from processhub.core.model.plan import Plan
from processhub.core.model.quorum import QuorumFacts, quorum
from processhub.core.planning.planner import plan
from processhub.core.strategies.custom import CustomDistribution
from processhub.core.strategies.migration import CustomMigration
from processhub.strategies import (
    DISTRIBUTION,
    Child,
    Distribution,
    Member,
    Migration,
    Move,
    Partition,
    Redundancy,
    Seen,
    Way,
)


class ByTag(Distribution):
    """Ranks first the member that each tag names."""

    def rank(self, child: Child, members: Sequence[Member]) -> list[str]:
        if "broken" in child.tags:
            raise KeyError("broken")
        return list(child.tags)


class OwnHub(PlannedHub):
    """A hub whose strategy is one of the user's."""

    def __init__(self, ranks: Distribution, members: int = 3, **spec: object) -> None:
        super().__init__(members, hub_spec(strategy="Mine", **spec))  # type: ignore[arg-type]
        self.strategy = CustomDistribution("Mine", ranks)

    def step(self, budget: int = 10**9) -> Plan:
        planned = plan(self.snapshot(budget), self.strategy)
        self.write(planned)
        self.acknowledge()
        return planned


class Uncapped(ByTag):
    """As ByTag, but without the load cap."""

    respects_load_cap = False


def test_children_are_placed_on_the_first_ready_member_with_room() -> None:
    hub = OwnHub(Uncapped(), max_children=2)
    hub.want(child(f"c{number}", tags=("hub-2", "hub-0")) for number in range(5))

    (planned, *_) = hub.rest()

    assert {name: len(hub.on(name)) for name in hub.members} == {"hub-0": 2, "hub-1": 0, "hub-2": 2}
    (why,) = planned.unplaced.values()
    assert why.reason is Reason.NO_MEMBERS
    assert why.message == ("the strategy Mine names no member that is ready and has room; it names hub-2, hub-0")


def test_the_load_cap_applies_if_the_strategy_asks_for_it() -> None:
    hub = OwnHub(ByTag())
    hub.want(child(f"c{number}", tags=("hub-2", "hub-0")) for number in range(12))

    hub.rest()

    assert {name: len(hub.on(name)) for name in hub.members} == {"hub-0": 5, "hub-1": 0, "hub-2": 7}


def test_a_new_member_gets_the_children_that_rank_it_above_their_current_one() -> None:
    hub = OwnHub(Uncapped(), members=2)
    hub.want([child("a", tags=("hub-2", "hub-0")), child("b", tags=("hub-0", "hub-2")), child("c", tags=("hub-1",))])
    hub.rest()

    hub.change("hub-2", joining=True)
    hub.rest()

    assert hub.where() == {"a": "hub-2", "b": "hub-0", "c": "hub-1"}


def test_if_the_strategy_raises_children_are_placed_by_hash_and_none_moves() -> None:
    hub = OwnHub(Uncapped(), members=2, cap_percent=1000)
    hub.want([child("a", tags=("broken",)), child("b", tags=("hub-1",))])

    hub.rest()

    by_hash = rank("a", [Candidate("hub-0"), Candidate("hub-1")])[0][0]
    assert hub.where() == {"a": by_hash, "b": "hub-1"}
    assert hub.strategy.failure == "rank('a') raised KeyError: 'broken'"
    hub.change("hub-2", joining=True)
    hub.rest()
    assert hub.where() == {"a": by_hash, "b": "hub-1"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example package, and one that can't be used."""
    packages = Path(installed(tmp_path_factory.mktemp("installed")))
    broken = packages / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text(
        f"[{DISTRIBUTION}]\nNowhere = no_such_module:Nothing\nText = string:digits\nModulo = by_region:ByRegion\n"
    )
    return packages


@pytest.fixture
def _found(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python finds the packages."""
    monkeypatch.syspath_prepend(packages)
    extensions.own_strategies.cache_clear()
    yield
    extensions.own_strategies.cache_clear()


@pytest.mark.usefixtures("_found")
def test_entry_points_are_loaded_and_failing_ones_have_a_reason() -> None:
    own = extensions.own_strategies()

    assert (own.distribution.keys(), own.redundancy.keys(), own.migration.keys(), own.partition.keys()) == (
        {"ByRegion"},
        {"OneInThree"},
        {"InRegion"},
        {"AllButOne"},
    )
    assert own.failed == {
        "Nowhere": "ModuleNotFoundError: No module named 'no_such_module'",
        "Text": "TypeError: string:digits is not a class derived from processhub.strategies.Distribution",
        "Modulo": "ProcessHub's own strategy has that name",
    }


@pytest.mark.usefixtures("_found")
def test_the_example_ranks_by_region() -> None:
    strategy = extensions.own_strategies().distribution["ByRegion"]
    hub = PlannedHub(4, hub_spec(strategy="ByRegion"))
    hub.want([child("ann"), child("zoe")])

    planned = plan(hub.snapshot(), strategy)

    places = {id_: name for name, entries in planned.entries.items() for id_ in entries}
    assert places["ann"] in ("hub-0", "hub-1")
    assert places["zoe"] in ("hub-2", "hub-3")


def test_a_redundancy_strategy_decides_the_number_of_copies() -> None:
    hub = PlannedHub(4, hub_spec(redundancy={"strategy": "OneInThree", "replicationModel": "ActivePassive"}))
    hub.want([child("a")])

    planned = plan(msgspec.structs.replace(hub.snapshot(), copies=2))

    assert sum("a" in entries for entries in planned.entries.values()) == 2


class ByWay(Migration):
    """Takes each child's first tag as its migration mode."""

    def way(self, child: Child, move: Move) -> Way:
        return Way(child.tags[0])


class MovingHub(PlannedHub):
    """A hub whose migration strategy is one of the user's."""

    def __init__(self, ways: Migration) -> None:
        spec = {"distribution": {"loadCapPercent": 1000}, "migration": {"strategy": "Mine"}}
        super().__init__(1, msgspec.convert(spec, HubSpec))
        self.migration = CustomMigration("Mine", ways)

    def step(self, budget: int = 10**9) -> Plan:
        planned = plan(self.snapshot(budget), None, self.migration)
        self.write(planned)
        self.acknowledge()
        return planned

    def ordered(self) -> set[str]:
        """Return the ids that are to hand over their state."""
        places = ((id_, place) for id_, places in self.snapshot().record.items() for place in places)
        return {id_ for id_, place in places if place.entry.to}


def test_a_migration_strategy_decides_for_each_move() -> None:
    hub = MovingHub(ByWay())
    hub.want(child(f"{way}-{number}", tags=(way,)) for way in Way for number in range(20))
    hub.rest()

    hub.change("hub-1", joining=True)
    planned = hub.step()
    begun = {move.id for move in planned.moves}
    drawn = begun | set(planned.deferred)

    assert hub.ordered() == {id_ for id_ in begun if id_.startswith(Way.HOT)} != set()
    assert any(id_.startswith(Way.COLD) for id_ in begun)
    assert set(planned.deferred) == {id_ for id_ in drawn if id_.startswith(Way.LATER)} != set()
    assert hub.members["hub-1"].joining


def test_the_state_of_a_child_that_cannot_stay_moves_along() -> None:
    hub = MovingHub(ByWay())
    hub.want(child(f"{way}-{number}", tags=(way,)) for way in Way for number in range(3))
    hub.rest()

    hub.change("hub-1")
    hub.change("hub-0", draining=True)
    planned = hub.step()

    assert {move.id for move in planned.moves} == {f"{way}-{number}" for way in Way for number in range(3)}
    assert hub.ordered() == {f"{way}-{number}" for way in (Way.HOT, Way.LATER) for number in range(3)}


def test_a_child_that_a_migration_strategy_fails_on_stays() -> None:
    hub = MovingHub(ByWay())
    hub.want(child(f"c{number}") for number in range(20))
    hub.rest()

    hub.change("hub-1", joining=True)
    planned = hub.step()

    assert planned.moves == ()
    assert planned.deferred
    assert hub.migration.failure.endswith("raised IndexError: tuple index out of range")


class Faulty(Redundancy, Partition):
    """A redundancy and a partition strategy, which both fail."""

    def copies(self, members: Sequence[Member]) -> int:
        raise KeyError("how many")

    def required(self, seen: Seen) -> int:
        raise KeyError("how many")


def hub_with(**spec: object) -> Hub:
    return make_hub(spec=spec)


def test_a_failing_redundancy_strategy_leaves_the_number_of_copies_unchanged() -> None:
    rules = CustomRules(hub_with(redundancy={"strategy": "Faulty"}), {}, {"Faulty": Faulty()}, {}, 2)

    assert rules.copies == 2
    assert rules.failure == "redundancy strategy Faulty: KeyError: 'how many'; the number of copies stays 2"


def test_a_failing_partition_strategy_requires_a_majority() -> None:
    rules = CustomRules(hub_with(partitionTolerance={"strategy": "Faulty"}), {}, {}, {"Faulty": Faulty()}, 1)

    assert rules.has_quorum
    assert rules.required(Seen(wanted=5, recent=5, largest_seen=5)) == 3
    assert rules.failure == "partition strategy Faulty: KeyError: 'how many'; a majority is required"


def test_a_hub_without_users_strategies_has_no_rules() -> None:
    rules = CustomRules(hub_with(), {}, {"Faulty": Faulty()}, {"Faulty": Faulty()}, 1)

    assert (rules.copies, rules.has_quorum, rules.failure) == (None, False, "")


@pytest.mark.parametrize(("live", "quorate"), [(3, True), (2, True), (1, False)])
def test_a_users_partition_strategy_decides_about_the_quorum(live: int, quorate: bool) -> None:
    spec = hub_with(partitionTolerance={"strategy": "AllButOne"}).spec.partition_tolerance

    verdict = quorum(spec, QuorumFacts(live=live, renewing=live, largest_seen=3), 2)

    assert (verdict.quorate, verdict.required) == (quorate, 2)
    assert "AllButOne needs 2" in verdict.why


@pytest.mark.parametrize("field", ["redundancy", "migration", "partitionTolerance"])
def test_unknown_strategies_are_rejected_with_the_known_ones(field: str) -> None:
    refusal = refuse_hub(hub_with(**{field: {"strategy": "Mine"}}).spec)

    assert refusal is not None
    assert refusal.reason is Reason.UNKNOWN_STRATEGY
    assert refusal.message.startswith(f"spec.{field}.strategy 'Mine' is not known; there are ")
    assert refuse_hub(hub_with(**{field: {"strategy": "Mine"}}).spec, (), *[("Mine",)] * 3) is None
