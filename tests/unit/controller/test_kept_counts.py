"""What follows from a slice is kept until the slice changes, and follows reports: it is always as if computed anew."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from builders import HUB, HUB_UID, make_child, make_member, make_slice
from processhub.api.childset import ChildSet
from processhub.api.hub import HubSpec
from processhub.api.reasons import Role, State
from processhub.api.slice import RegistrySlice
from processhub.controller.execute.slicewriter import _content
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import on_record
from processhub.controller.report.childset import tallies
from processhub.controller.report.hub import registry_of
from processhub.controller.store.childsets import SeenSet, known_set
from processhub.controller.store.hubstate import HubState
from processhub.core.model.membership import Phase
from processhub.registry.grammar import NOBODY, Assignment, Report

IDS = (("a", "b", "c"), ("d", "e"))  # of each slice
SET = msgspec.convert(
    {
        "metadata": {"name": "s", "namespace": "ns", "uid": "u"},
        "spec": {"hub": HUB, "ids": ["a", "b", "d"], "template": {"exec": {"command": ["sleep"]}}},
    },
    ChildSet,
)
SETS = {"u": SeenSet(known_set(SET, None))}
TEMPLATE = SETS["u"].known.digest

PLAIN = Assignment(uid="u", epoch=1, workload=TEMPLATE)
uids, epochs = st.sampled_from(["u", "v", NOBODY]), st.integers(1, 2)
entries = st.sampled_from([PLAIN, None]) | st.builds(
    Assignment,
    uid=uids,
    epoch=epochs,
    workload=st.sampled_from([TEMPLATE, "former"]),
    wait=st.booleans(),
    role=st.sampled_from([Role.ACTIVE, Role.PASSIVE]),
)
states = st.sampled_from([State.RUNNING, State.FAILED, State.STARTING])
# Most are of the incarnation that a plain entry names.
own = st.builds(Report, uid=st.just("u"), epoch=st.just(1), state=states, pid=st.integers(0, 2))
reports = (
    own
    | st.none()
    | st.builds(
        Report,
        uid=uids,
        epoch=epochs,
        state=states,
        pid=st.integers(0, 2),
        restarts=st.integers(0, 1),
        last_exit=st.sampled_from(["", "exit code 1"]),
        view=st.sampled_from([0, 1]),
    )
)


@st.composite
def versions(draw: st.DrawFn) -> list[RegistrySlice]:
    """Return a history of the two slices of a member: most changes are of reports alone."""
    history = []
    said: dict[str, tuple[Assignment | None, Report | None]] = {each: (PLAIN, None) for ids in IDS for each in ids}
    for generation in range(1, draw(st.integers(2, 8))):
        index, holder = draw(st.sampled_from([0, 0, 1])), draw(st.sampled_from(["h", "h", "h", "former"]))
        for child_id in draw(st.sets(st.sampled_from(IDS[index]))):
            entry = draw(entries) if draw(st.integers(0, 3)) == 0 else said[child_id][0]
            said[child_id] = (entry, draw(reports))
        texts = {each: said[each][0] for each in IDS[index] if said[each][0] is not None}
        reported = {each: said[each][1] for each in IDS[index] if said[each][1] is not None}
        history.append(make_slice(texts, reported, index=index, holder=holder, resource_version=str(generation)))
    return history


def members_of(state: HubState, *, restarting: bool) -> dict[str, Member]:
    slices = state.slices.by_member().get("hub-0", ())
    phase = Phase.HELD if restarting else Phase.LIVE
    return {"hub-0": make_member("hub-0", *slices, holder="h", phase=phase, restarting=restarting)}


def everything(state: HubState, *, restarting: bool, reported: bool) -> Mapping[str, object]:
    """Return all that follows from the slices of a hub and is kept with them."""
    members = members_of(state, restarting=restarting)
    count = sum(len(known.assignments) for known in state.slices.values())
    tally = tallies(SETS, members, count)["u"]
    return {
        "record": on_record(state, members if reported else {}, 1),
        "registry": registry_of(members, count),
        "states": {each: tally.count(each) for each in State},
        "failed": [tally.described(child_id) for child_id in tally.failed],
        "former": tally.former,
        "ending": tally.ending,
        "measures": [_content(known).measure for known in state.slices.values()],
        "possibly running": [known.possibly_running("h") for known in state.slices.values()],
    }


@given(versions(), st.data())
def test_what_is_kept_of_slices_is_as_if_computed_anew(history: list[RegistrySlice], data: st.DataObject) -> None:
    kept = HubState(("ns", HUB))
    kept.belongs_to(HUB_UID)
    latest: dict[str, RegistrySlice] = {}
    reported = data.draw(st.booleans())
    for version in history:
        kept.put_slice(version)
        latest[version.metadata.name] = version
        if data.draw(st.booleans()):
            continue  # Several changes may come between two looks.
        restarting = data.draw(st.sampled_from([False, False, False, True]))
        anew = HubState(("ns", HUB))
        for known in kept.slices.values():
            anew.put_slice(latest[known.present.metadata.name])

        found, expected = (everything(it, restarting=restarting, reported=reported) for it in (kept, anew))
        assert found == expected


def test_refusals_are_kept_until_the_spec_of_the_hub_differs() -> None:
    def guided(strategy: str) -> HubSpec:
        return msgspec.convert({"distribution": {"strategy": strategy}}, HubSpec)

    state = HubState(("ns", HUB))
    state.put_child(make_child("a", {"exec": {"command": ["x"]}}, generation=1))

    first = state.children.refusals(guided("Guided"))["a"]
    again = state.children.refusals(guided("Guided"))["a"]
    other = state.children.refusals(guided("ConsistentHashing"))["a"]

    assert first is not None
    assert again is first, "the Hub is another object after each write of its status"
    assert other is None
