"""A write of a slice with an unknown outcome: until it is read, nobody else gets the children that it names."""

from __future__ import annotations

from functools import partial

import pytest
from slicesite import HUB, Rounds, SliceSite, rounds_on, two_members

from processhub.api.reasons import Reason
from processhub.controller.execute import slicewriter
from processhub.controller.lead import takeover
from processhub.controller.lead.takeover import raise_terms
from processhub.controller.observe.members import observe_members
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.slices import Creation
from processhub.core.model.membership import Phase
from processhub.core.planning.packing import pack

UNKNOWN = ("unanswered", "broken", "late")


async def settled(rounds: Rounds, child_id: str) -> list[str]:
    """Run rounds until one does not change the child any more; return the slices that have it."""
    for _ in range(6):
        await rounds.round()
    return rounds.site.owners(child_id)


@pytest.mark.parametrize("way", UNKNOWN)
async def test_a_child_whose_write_got_no_response_gets_no_second_owner(way: str) -> None:
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("x")
        site.ways = [way]

        await rounds.round()
        _, planned = await rounds.round()
        in_doubt = site.owners("x")
        site.land()
        rounds.see()
        owners = await settled(rounds, "x")

    assert len(in_doubt) <= 1
    assert not any("x" in entries for entries in planned.entries.values()), "it was left alone"
    assert len(owners) == 1


async def test_a_late_write_does_not_land_once_the_slice_was_written_again() -> None:
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("x")
        site.ways = ["late"]

        await rounds.round()
        await rounds.round()
        await rounds.round()
        before = site.owners("x")
        answers = site.land()

    assert len(before) == 1, "placed anew, for the first write can't land any more"
    assert answers == [409]
    assert site.owners("x") == before


@pytest.mark.parametrize("way", UNKNOWN)
async def test_a_late_creation_of_a_slice_gives_no_child_a_second_owner(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slicewriter, "pack", partial(pack, max_entries=10))
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want(*(f"c{number}" for number in range(20)))
        await rounds.round()
        assert [len(item["spec"]["entries"]) for item in site.slices.values()] == [10, 10], "both are full"
        rounds.want("x")
        site.ways = [way]

        await rounds.round()
        assert site.ways == []
        _, planned = await rounds.round()
        site.land()
        rounds.see()
        owners = await settled(rounds, "x")

    assert not any("x" in entries for entries in planned.entries.values())
    assert len(owners) == 1


async def test_a_slice_whose_creation_got_no_response_is_created_again_so_that_it_cannot_land_late() -> None:
    site = SliceSite()
    site.add("hub.hub-0.0", "hub-0")
    async with rounds_on(site, "hub-0") as rounds:
        await rounds.round()  # the member has acknowledged its slice
        rounds.want("x")
        del site.slices["hub.hub-0.0"]
        rounds.state.slices.clear()
        site.ways = ["late"]

        await rounds.round()
        await rounds.round()
        answers = site.land()

    assert answers == [409]
    assert rounds.memory.execute.unconfirmed_slices == {"hub.hub-0.0"}


async def test_the_status_says_what_the_child_waits_for() -> None:
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("x")
        site.ways = ["late", "late"]

        await rounds.round()
        observation, _ = await rounds.round()

    assert observation.held["x"].reason is Reason.WAITING
    assert "has not answered" in observation.held["x"].message


async def test_a_rejected_write_leaves_nothing_unconfirmed() -> None:
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("x")
        site.ways = ["refused"]

        await rounds.round()
        in_doubt = rounds.state.slices.uncertain()
        await rounds.round()

    assert in_doubt == frozenset()
    assert len(site.owners("x")) == 1


async def test_a_removal_without_a_response_is_repeated_and_frees_the_child_once_it_is_proven() -> None:
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("x")
        await rounds.round()
        (owner,) = site.owners("x")
        known = rounds.state.children.pop("x")
        rounds.state.children.by_id.pop("x")
        site.ways = ["late"]

        await rounds.round()
        assert rounds.state.slices.uncertain() == {"x"}
        await rounds.round()
        await rounds.round()
        rounds.state.put_child(known.child)
        _, planned = await rounds.round()
        site.slices[owner]["status"]["observedGeneration"] = site.slices[owner]["metadata"]["generation"]
        site.slices[owner]["metadata"]["resourceVersion"] = "900"
        rounds.see()
        owners = await settled(rounds, "x")

    assert planned.unplaced["x"].reason is Reason.ALREADY_STARTED
    assert len(owners) == 1


@pytest.mark.parametrize("way", ["unanswered", "broken"])
async def test_a_term_stored_without_a_response_must_still_be_acknowledged(way: str) -> None:
    """The member may have started what the former leader wrote last and removed: it has not reported that yet."""
    site = SliceSite()
    slice_ = site.add("hub.hub-0.0", "hub-0")
    slice_["metadata"]["generation"] = 8
    slice_["status"]["observedGeneration"] = 6
    site.ways = [way]
    async with rounds_on(site, "hub-0") as rounds:
        raised = await raise_terms(rounds.client, rounds.store, (), 2)
        rounds.memory.observe.settling.term_generations = raised.generations
        observation, _ = await rounds.round()

    assert raised.generations == {slice_["metadata"]["uid"]: 9}
    assert [view.settled for view in observation.snapshot.members] == [False]


@pytest.mark.parametrize("code", [403, 500])
async def test_a_hub_whose_terms_cannot_be_raised_is_skipped_and_blocks_no_other(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "_PATIENT_PASSES", 1)
    site = SliceSite()
    site.add("other.other-0.0", "other-0", hub="other")
    site.add("hub.hub-0.0", "hub-0")
    site.refuses = {"other.other-0.0": code}
    async with rounds_on(site, "hub-0") as rounds:
        raised = await raise_terms(rounds.client, rounds.store, (), 2)
        left_behind = dict(raised.behind)
        site.refuses = {}
        again = await raise_terms(rounds.client, rounds.store, ("ns",), 2, ("ns", "other"))

    assert {key: str(error) for key, error in left_behind.items()} == {("ns", "other"): "Refused"}
    assert site.slices["hub.hub-0.0"]["spec"]["term"] == 2
    assert again.behind == {}
    assert again.generations.keys() == {"uid-other.other-0.0"}
    assert site.slices["other.other-0.0"]["spec"]["term"] == 2


@pytest.mark.parametrize("way", UNKNOWN)
async def test_a_creation_that_got_no_response_is_settled_for_a_member_that_is_gone_for_good(way: str) -> None:
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        await rounds.round()  # the members have acknowledged their slices
        rounds.want("x")
        del site.slices["hub.hub-0.0"]
        del rounds.state.slices["hub.hub-0.0"]
        site.ways = [way]
        await rounds.round()
        assert rounds.state.slices.creating.keys() == {"hub.hub-0.0"}
        rounds.surplus.add("hub-0")
        rounds.gone.add("hub-0")

        owners = await settled(rounds, "x")
        answers = site.land()

    assert owners == ["hub.hub-1.0"]
    assert answers == ([409] if way == "late" else []), "it can't be stored any more"


def test_a_member_counts_as_one_while_its_slice_may_be_created() -> None:
    state = HubState(HUB.metadata.key)
    state.slices.creating["hub.hub-7.0"] = Creation("hub-7", 0, frozenset("x"))

    members = observe_members(HUB, state, {}, {}, 0.0, leases_observed=True)

    assert (members["hub-7"].phase, members["hub-7"].wanted) == (Phase.GONE, False)
