"""Children that have ended for good stay so wherever they are moved (docs/protocol.md, rule 34)."""

from __future__ import annotations

import msgspec
import pytest
from planned_hub import PlannedHub, child, first_on, hub_of, resting

from processhub.api.reasons import State
from processhub.core.model.membership import Phase
from processhub.registry.grammar import parse_end


def ended_on(name: str, state: State = State.STOPPED, **hub: int) -> tuple[PlannedHub, str]:
    """Return a hub at rest with a child that has ended for good on this member, and its id."""
    planned = resting(**hub)
    child_id = first_on(planned, name)
    planned.end(child_id, state)
    assert not planned.rest()
    return planned, child_id


def goes(hub: PlannedHub, name: str, how: str) -> None:
    """Have a member lost, drained or scaled away."""
    match how:
        case "lost":
            hub.change(name, phase=Phase.GONE)
        case "drained":
            hub.change(name, draining=True)
        case "scaled away":
            hub.change(name, draining=True, wanted=False)


@pytest.mark.parametrize("state", [State.STOPPED, State.FAILED])
@pytest.mark.parametrize("how", ["lost", "drained", "scaled away"])
def test_a_child_that_has_ended_is_not_started_where_its_member_leaves(how: str, state: State) -> None:
    hub, child_id = ended_on("hub-2", state)
    before = hub.epoch(child_id)
    goes(hub, "hub-2", how)

    hub.rest()

    ((member, entry),) = hub.record[child_id].items()
    assert member != "hub-2"
    assert parse_end(entry.ended).state == state
    assert entry.epoch > before
    assert not entry.wait
    assert child_id not in hub.where()
    assert len(hub.where()) == len(hub.children) - 1


@pytest.mark.parametrize("how", ["lost", "drained", "scaled away"])
def test_its_end_is_on_record_at_each_moment_of_the_move(how: str) -> None:
    """A leader that begins between two writes of a round would start it otherwise."""
    hub, child_id = ended_on("hub-2")
    goes(hub, "hub-2", how)

    while not (planned := hub.plan()).empty:
        for name, entries in planned.entries.items():
            written = {**hub.record[child_id], name: entries.get(child_id, hub.record[child_id].get(name))}
            assert any(
                entry is not None and (entry.ended or (child_id, entry.epoch) in hub.ended)
                for entry in written.values()
            )
        hub.write(planned)
        hub.acknowledge()


def test_a_child_that_ends_while_it_is_moved_is_not_started_on_the_target() -> None:
    hub = resting()
    child_id = first_on(hub, "hub-2")
    hub.change("hub-2", draining=True)
    hub.step()
    assert len(hub.record[child_id]) == 2

    hub.end(child_id)
    hub.rest()

    assert child_id not in hub.where()
    assert "hub-2" not in hub.record[child_id]


def test_it_stays_ended_when_one_member_after_the_other_is_lost() -> None:
    hub, child_id = ended_on("hub-2")
    hub.change("hub-2", phase=Phase.GONE)
    hub.step()
    (target,) = hub.record[child_id].keys() - {"hub-2"}

    hub.change(target, phase=Phase.GONE)
    hub.rest()

    (last,) = hub.record[child_id]
    assert last not in {"hub-2", target}
    assert child_id not in hub.where()


def test_a_target_that_is_lost_after_the_source_left_passes_the_end_on() -> None:
    hub, child_id = ended_on("hub-2")
    hub.change("hub-2", draining=True)
    while "hub-2" in hub.record[child_id]:
        hub.write(hub.plan())
    ((target, entry),) = hub.record[child_id].items()
    assert entry.wait

    hub.change(target, phase=Phase.GONE)
    hub.rest()

    (last,) = hub.record[child_id]
    assert last not in {"hub-2", target}
    assert child_id not in hub.where()


def test_it_has_no_place_until_a_member_takes_it_and_is_not_started_then() -> None:
    hub, child_id = ended_on("hub-0", members=1)
    hub.change("hub-0", phase=Phase.GONE)
    hub.rest()
    assert set(hub.record[child_id]) == {"hub-0"}

    hub.change("hub-1", phase=Phase.LIVE)
    hub.rest()

    assert set(hub.record[child_id]) == {"hub-1"}
    assert hub.on("hub-1") == hub.children.keys() - {child_id}


def test_a_hub_that_is_scaled_to_zero_by_force_remembers_it() -> None:
    hub, child_id = ended_on("hub-0", members=1)
    hub.change("hub-0", draining=True, wanted=False, forced=True)
    planned = hub.plan()
    hub.rest()
    assert child_id in planned.stranded["hub-0"]
    assert child_id in hub.plan().stranded["hub-0"]
    hub.change("hub-0", phase=Phase.GONE)
    hub.rest()

    hub.change("hub-0", phase=Phase.LIVE, draining=False, wanted=True, forced=False)
    hub.rest()

    assert hub.on("hub-0") == hub.children.keys() - {child_id}


def test_a_bound_child_stays_ended_on_the_member_that_it_was_driven_from() -> None:
    hub = hub_of("Guided", members=2)
    hub.want([child("a", nodes=("hub-1",))])
    hub.rest()
    hub.end("a")
    hub.change("hub-1", draining=True, forced=True)
    hub.rest()

    hub.change("hub-1", draining=False, forced=False)
    hub.rest()

    assert set(hub.record["a"]) == {"hub-1"}
    assert not hub.where()


@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("how", ["lost", "drained"])
def test_an_edit_of_its_workload_starts_it_again(how: str, when: str) -> None:
    hub, child_id = ended_on("hub-2")
    edited = msgspec.structs.replace(hub.children[child_id], workload="edited")
    goes(hub, "hub-2", how)
    if when == "during":
        hub.step()
    hub.want([edited])

    hub.rest()

    assert hub.where()[child_id] != "hub-2"


def test_an_edit_of_its_tags_does_not() -> None:
    hub, child_id = ended_on("hub-2")
    hub.change("hub-2", draining=True)
    hub.rest()

    hub.want([msgspec.structs.replace(hub.children[child_id], tags=("eu",))])
    hub.rest()

    ((_, entry),) = hub.record[child_id].items()
    assert entry.tags == ("eu",)
    assert child_id not in hub.where()


def test_another_child_of_its_id_is_started() -> None:
    hub, child_id = ended_on("hub-2")
    hub.change("hub-2", phase=Phase.GONE)
    hub.step()

    hub.want([child(child_id, uid="created again")])
    hub.rest()

    assert child_id in hub.where()


def test_a_suspended_child_is_started_again_when_it_is_resumed() -> None:
    hub, child_id = ended_on("hub-2")
    hub.change("hub-2", draining=True)
    hub.rest()
    resumed = hub.children[child_id]
    hub.want([msgspec.structs.replace(resumed, suspended=True)])
    hub.rest()

    hub.want([resumed])
    hub.rest()

    assert child_id in hub.where()


@pytest.mark.parametrize(("state", "starts"), [(State.STOPPED, False), (State.FAILED, True)])
@pytest.mark.parametrize("by", ["request", "nodes"])
def test_a_move_that_a_user_orders_starts_only_a_child_that_has_failed(state: State, by: str, *, starts: bool) -> None:
    """For one that has exceeded its restarts, another member is an attempt to mend it."""
    hub = hub_of("Guided" if by == "nodes" else "ConsistentHashing", members=2)
    hub.want([child("a", nodes=("hub-0",) if by == "nodes" else ())])
    hub.rest()
    here = hub.end("a", state)
    there = "hub-1" if here == "hub-0" else "hub-0"

    if by == "nodes":
        hub.want([child("a", nodes=(there,))])
    else:
        hub.move_requests["a"] = there
    hub.rest()

    assert set(hub.record["a"]) == {there}
    assert hub.where() == ({"a": there} if starts else {})


def test_a_finished_child_is_moved_without_an_order_to_hand_over() -> None:
    hub, child_id = ended_on("hub-2")
    hub.spec = msgspec.structs.replace(
        hub.spec, migration=msgspec.structs.replace(hub.spec.migration, strategy="HotSwap")
    )
    hub.change("hub-2", draining=True)

    planned = hub.step()

    assert planned.entries["hub-2"].keys() == hub.children.keys() & planned.entries["hub-2"].keys() - {child_id}
