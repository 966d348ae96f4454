"""Missing slices of a member: children of a deleted slice must be proven to have ended, and slice 0 must exist."""

from __future__ import annotations

import pytest
from slicesite import Rounds, SliceSite, rounds_on, two_members

from builders import HUB_UID
from processhub.api.naming import LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER
from processhub.api.reasons import Reason

ENTRY = "u{0} 5 Active w"
RUNS = "u{0} 5 Active Running 77 0 2026-01-01T00:00:00Z"


def two_slices() -> SliceSite:
    """A member whose slice 0 has a and whose slice 1 has x; both run."""
    site = SliceSite()
    for index, child_id in enumerate(("a", "x")):
        item = site.add(f"hub.hub-0.{index}", "hub-0")
        item["spec"] |= {"entries": {child_id: ENTRY.format(child_id)}, "workloads": {"w": "{}"}}
        item["status"]["entries"] = {child_id: RUNS.format(child_id)}
    site.add("hub.hub-1.0", "hub-1")
    return site


def delete(rounds: Rounds, name: str) -> None:
    """Delete the slice with kubectl, and deliver that to the watch."""
    del rounds.site.slices[name]
    known = rounds.state.slices[name].object
    assert known is not None
    rounds.state.drop_slice(known)


def answer(rounds: Rounds, name: str, **entries: str) -> None:
    """Let the member report its slice as it is now."""
    item = rounds.site.slices[name]
    item["status"] = {"observedGeneration": item["metadata"]["generation"], "holder": "hub-0/n", "entries": entries}
    item["metadata"]["resourceVersion"] = str(int(item["metadata"]["resourceVersion"]) + 500)
    rounds.see()


def renews(site: SliceSite, member: str) -> None:
    """Let the member hold its Lease, which the operator's watch does not show."""
    site.leases[f"hub.{member}"] = {
        "metadata": {
            "name": f"hub.{member}",
            "namespace": "ns",
            "uid": "l",
            "labels": {LABEL_HUB: "hub", LABEL_HUB_UID: HUB_UID, LABEL_MEMBER: member},
        },
        "spec": {"holderIdentity": f"{member}/n", "renewTime": "2026-01-01T00:00:00.000000Z"},
    }


async def waits_for_the_earlier_x(rounds: Rounds) -> bool:
    """Return whether a round keeps x from starting elsewhere because hub-0 may still run it."""
    _, planned = await rounds.round()
    assert not any("x" in entries for entries in planned.entries.values())
    return planned.unplaced["x"].reason is Reason.ALREADY_STARTED


@pytest.mark.parametrize("deleted", ["hub.hub-0.1", "hub.hub-0.0"])
async def test_a_child_of_a_deleted_slice_starts_elsewhere_only_after_slice_0_is_reported_without_it(
    deleted: str,
) -> None:
    site = two_slices()
    if deleted.endswith("0"):  # slice 0 has x then
        zero, one = site.slices["hub.hub-0.0"], site.slices["hub.hub-0.1"]
        for part in ("spec", "status"):
            zero[part]["entries"], one[part]["entries"] = one[part]["entries"], zero[part]["entries"]
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("a", "x")
        await rounds.round()  # a and x are as they should be
        delete(rounds, deleted)

        assert await waits_for_the_earlier_x(rounds)
        assert await waits_for_the_earlier_x(rounds), "slice 0 was written; it is not answered yet"
        answer(rounds, "hub.hub-0.0", a=RUNS.format("a"), x=RUNS.format("x").replace("Running", "Stopping"))
        assert await waits_for_the_earlier_x(rounds), "it is being stopped"
        answer(rounds, "hub.hub-0.0", a=RUNS.format("a"))
        await rounds.round()

        assert len(site.owners("x")) == 1


async def test_a_report_from_before_the_deletion_proves_nothing() -> None:
    site = two_slices()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("a", "x")
        await rounds.round()  # a and x are as they should be
        before = site.slices["hub.hub-0.0"]["metadata"]["generation"]
        answer(rounds, "hub.hub-0.0", a=RUNS.format("a"))
        delete(rounds, "hub.hub-0.1")

        assert await waits_for_the_earlier_x(rounds)

        assert site.slices["hub.hub-0.0"]["metadata"]["generation"] == before + 1
        assert await waits_for_the_earlier_x(rounds)


async def test_a_member_with_only_another_slice_gets_slice_0() -> None:
    """Its agent starts with slice 0: without it the member never returns."""
    site = two_slices()
    del site.slices["hub.hub-0.0"]
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("x")

        await rounds.round()

    assert site.slices["hub.hub-0.0"]["spec"]["entries"] == {}
    assert list(site.slices["hub.hub-0.1"]["spec"]["entries"]) == ["x"], "what is on record stays there"


async def test_a_surplus_member_whose_only_slice_is_deleted_proves_in_a_new_one_what_has_ended() -> None:
    site = two_slices()
    del site.slices["hub.hub-0.1"]
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("a")
        await rounds.round()  # a is as it should be
        rounds.surplus.add("hub-0")
        delete(rounds, "hub.hub-0.0")

        await rounds.round()

        assert not site.owners("a"), "it may run on hub-0"
        answer(rounds, "hub.hub-0.0")
        await rounds.round()
        assert site.owners("a") == ["hub.hub-1.0"]


@pytest.mark.parametrize("renewed", [True, False])
async def test_the_lease_of_a_member_that_seems_gone_without_slices_is_read_before_its_children_go(
    *, renewed: bool
) -> None:
    """The watch of Leases lags. The member was taken for gone without a read, as no slice had anything of it."""
    site = two_slices()
    del site.slices["hub.hub-0.1"]
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("a")
        await rounds.round()  # a is as it should be
        delete(rounds, "hub.hub-0.0")
        rounds.gone.add("hub-0")
        if renewed:
            renews(site, "hub-0")

        await rounds.round()

        assert site.owners("a") == ([] if renewed else ["hub.hub-1.0"])


@pytest.mark.parametrize("renewed", [True, False])
async def test_the_lease_of_a_member_that_owes_a_new_leader_its_answer_is_read_before_it_counts_as_gone(
    *, renewed: bool
) -> None:
    """It may run what the former leader wrote last and removed, and no slice says so."""
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.memory.observe.settling.term_generations = {"uid-hub.hub-0.0": 2}
        rounds.want("x")
        rounds.gone.add("hub-0")
        if renewed:
            renews(site, "hub-0")

        _, planned = await rounds.round()

        assert site.owners("x") == ([] if renewed else ["hub.hub-1.0"])
        assert "x" not in planned.unplaced or planned.unplaced["x"].message.startswith("waiting until hub-0 confirmed")


async def test_the_lease_of_a_member_that_seems_gone_is_read_after_the_deletion_of_its_slice() -> None:
    """Its next agent may have read the slice before that, and taken the Lease after the read."""
    site = two_slices()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("a", "x")
        await rounds.round()  # a and x are as they should be
        rounds.gone.add("hub-0")

        def deleted_meanwhile() -> None:
            site.on_lease_read = lambda: None
            delete(rounds, "hub.hub-0.1")

        site.on_lease_read = deleted_meanwhile
        observation, planned = await rounds.round()
        assert not any("x" in entries for entries in planned.entries.values())
        assert observation.members["hub-0"].judgement.recheck_seconds == 0.05

        await rounds.round()
        assert site.owners("x") == ["hub.hub-1.0"]


async def test_a_surplus_member_that_is_gone_gets_no_slice() -> None:
    site = two_slices()
    for index in (0, 1):
        del site.slices[f"hub.hub-0.{index}"]
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.surplus.add("hub-0")
        rounds.gone.add("hub-0")

        await rounds.round()

    assert list(site.slices) == ["hub.hub-1.0"]
