"""What a request for a child would do that is on no record, in a hub that starts children on demand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from builders import HUB_UID, make_client, make_hub, make_slice
from processhub.api.slice import Activation, RegistrySlice, ViewMember
from processhub.client.demand import Outlook, chosen_by, outlook
from processhub.client.session import Session
from processhub.registry.grammar import Assignment, Report

MEMBERS = ("hub-0", "hub-1", "hub-2")
VIEW = Activation(view=7, phase="Open", members=tuple(ViewMember(name=name, weight=1) for name in MEMBERS))
CHOSEN = chosen_by(VIEW, "a")
OTHER = next(name for name in MEMBERS if name != CHOSEN)


def slice_of(member: str, activation: Activation | None = VIEW, **fields: Any) -> RegistrySlice:
    return make_slice(member=member, activation=activation, **fields)


def session_of(
    *slices: RegistrySlice, unready: str = "", partitioned: str = "", demand: dict[str, Any] | None = None, **spec: Any
) -> Session:
    """A hub with spec.onDemand, three members and these slices, by default all with the open view."""
    members = [
        {"name": name, "ready": name != unready, "message": "it restarts" if name == unready else ""}
        for name in MEMBERS
    ]
    conditions = [{"type": "Quorate", "status": "False", "reason": "Partitioned", "message": partitioned}]
    hub = make_hub(
        spec={"onDemand": {"exec": {"command": ["x"]}, **(demand or {})}, **spec},
        status={"members": members, "conditions": conditions if partitioned else []},
    )
    session = Session(make_client(), "ns", hub)
    for item in slices or [slice_of(name) for name in MEMBERS]:
        session.registry.put(item)
    return session


def seen(session: Session) -> Outlook:
    found = outlook(session, "a")
    assert found is not None
    return found


def test_a_hub_without_such_children_has_no_outlook() -> None:
    session = session_of()
    session.hub = make_hub()

    assert outlook(session, "a") is None


@pytest.mark.parametrize(("strategy", "by"), [("ConsistentHashing", "the hash"), ("Modulo", "its number")])
def test_an_open_view_has_its_member_start_the_child(strategy: str, by: str) -> None:
    order = msgspec.structs.replace(VIEW, strategy=strategy)
    chosen = chosen_by(order, "a")

    found = seen(session_of(*(slice_of(name, order) for name in MEMBERS)))

    assert found == Outlook(f"a request would start it on {chosen}, its member by {by}", chosen)


def test_a_request_waits_while_the_view_closes() -> None:
    closing = msgspec.structs.replace(VIEW, phase="Closing")

    found = seen(session_of(slice_of(OTHER, closing), slice_of(CHOSEN)))

    assert (found.member, found.says.split(":")[0]) == ("", "a request waits until the next view is open")


def test_a_view_that_is_left_in_a_slice_counts_for_nothing_beside_a_newer_one() -> None:
    former = msgspec.structs.replace(VIEW, view=6, phase="Closing")

    assert seen(session_of(slice_of(OTHER, former), slice_of(CHOSEN))).member == CHOSEN


def test_a_request_waits_for_a_member_that_is_not_ready() -> None:
    found = seen(session_of(unready=CHOSEN))

    assert found.member == ""
    assert found.says.startswith(f"a request waits for {CHOSEN}, ")
    assert found.says.endswith("not ready (it restarts)")


def test_a_request_is_refused_when_the_limit_or_the_share_of_the_member_is_reached() -> None:
    shared = msgspec.structs.replace(VIEW, share=1, most=3)
    entry = {"b": Assignment(uid=HUB_UID, epoch=5, workload="w", on_demand=True)}
    reported = {"b": Report(uid=HUB_UID, epoch=5, state="Running", view=7)}

    full = seen(session_of(slice_of(CHOSEN, entries=entry), demand={"max": 1}))
    no_share = seen(session_of(slice_of(CHOSEN, shared, reports=reported), demand={"max": 3}))
    elsewhere = seen(session_of(slice_of(OTHER, shared, reports=reported), slice_of(CHOSEN, shared), demand={"max": 3}))

    assert "answered 429, because the hub has its 1 child on demand (spec.onDemand.max)" in full.says
    assert f"answered 429, because {CHOSEN} has its 1 child on demand, its share of" in no_share.says
    assert (full.member, no_share.member, elsewhere.member) == ("", "", CHOSEN)


def test_a_member_may_have_a_share_of_nothing_and_more_places_are_shared_out_anew() -> None:
    """When the view was opened all places were taken by others. Some of these have ended since."""
    shared = msgspec.structs.replace(VIEW, share=0, most=3)

    one_left = {name: Assignment(uid=HUB_UID, epoch=5, workload="w", on_demand=True) for name in ("b", "c")}
    none = seen(session_of(slice_of(CHOSEN, shared), slice_of(OTHER, entries=one_left), demand={"max": 3}))
    more = seen(session_of(slice_of(CHOSEN, shared), demand={"max": 3}))

    assert f"answered 429, because {CHOSEN} has its 0 children on demand" in none.says
    assert more.says == f"a request waits until the next view is open, because {CHOSEN} has used its share up"


def test_a_request_is_refused_by_a_member_that_has_as_many_children_as_it_may() -> None:
    session = session_of(members={"maxChildren": 1})
    status = session.living_hub().status
    full = tuple(msgspec.structs.replace(member, children=int(member.name == CHOSEN)) for member in status.members)
    session.hub = msgspec.structs.replace(session.living_hub(), status=msgspec.structs.replace(status, members=full))

    assert seen(session) == Outlook(
        f"a request is answered 429, because {CHOSEN} has its 1 child (spec.members.maxChildren)"
    )


def test_a_suspended_or_partitioned_hub_starts_nothing() -> None:
    assert seen(session_of(suspend=True)).says == "a request is refused, because spec.suspend of hub hub is true"
    lost = seen(session_of(partitioned="1 of 3 members are live", partitionTolerance={"strategy": "MajorityQuorum"}))
    assert lost.says.startswith("a request is refused, because the hub has lost its quorum")


def test_without_a_view_the_operator_places_what_members_ask_for() -> None:
    item = slice_of(OTHER, None)
    asking = msgspec.structs.replace(item, status=msgspec.structs.replace(item.status, asks=("a",)))
    local = {"distribution": {"strategy": "Local"}}

    assert "have the operator place it by ConsistentHashing" in seen(session_of(slice_of(OTHER, None))).says
    assert "on the member that is asked (Local)" in seen(session_of(slice_of(OTHER, None), **local)).says
    waiting = seen(session_of(asking))
    assert (waiting.asked, waiting.member) == (True, "")
    assert waiting.says == f"requests wait for it ({OTHER}); the operator has not placed it yet"
