"""What a new leader takes over of a hub whose Leases were deleted while nobody led it."""

from __future__ import annotations

import math

import msgspec
import pytest
from a_round import a_round

from builders import HUB_UID, make_hub, make_slice
from processhub.api.hub import Hub
from processhub.api.kubernetes import Pod, PodSpec
from processhub.api.meta import ObjectMeta
from processhub.api.naming import LABEL_HUB_UID
from processhub.api.slice import FORMAT, Settings
from processhub.controller.lead.takeover import Takeover
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.leases import UNKNOWN_HOLDER

LISTED = {"members": [{"name": "hub-1"}]}


def per_node(**status: object) -> Hub:
    return make_hub(spec={"members": {"mode": "PerNode"}}, status=status)


def pod(name: str, hub_uid: str = HUB_UID) -> Pod:
    metadata = ObjectMeta(name=name, namespace="ns", uid=f"pod-{name}", labels={LABEL_HUB_UID: hub_uid})
    return Pod(metadata=metadata, spec=PodSpec(node_name="node-1"))


async def taken_over(hub: Hub, state: HubState) -> dict[str, tuple[str | None, int | None]]:
    """Return the holder and the duration of each Lease after the first round of a new leader."""
    assert await Takeover().catch_up(a_round(hub, state))
    assert state.leases.unwatched == state.leases.keys()
    specs = {name: known.lease.spec for name, known in state.leases.items()}
    return {name: (spec.holder_identity, spec.lease_duration_seconds) for name, spec in specs.items()}


@pytest.mark.parametrize(
    ("hub", "pods", "found"),
    [
        (make_hub(), ["hub-1"], {"hub.hub-1"}),
        (make_hub(status=LISTED), [], {"hub.hub-1"}),
        (make_hub(), ["a-copy"], set()),
        (make_hub(), [], set()),
        (per_node(), ["hub-x7"], {"hub.node-1"}),
    ],
)
async def test_a_member_without_slices_and_lease_counts_as_held_by_an_unknown_agent(
    hub: Hub, pods: list[str], found: set[str]
) -> None:
    state = HubState(("ns", "hub"))
    state.belongs_to(HUB_UID)
    for name in pods:
        state.pods.put(pod(name), -math.inf)

    leases = await taken_over(hub, state)

    assert leases == dict.fromkeys(found, (UNKNOWN_HOLDER, hub.spec.timeouts.lease_seconds))


async def test_a_pod_of_an_earlier_hub_shows_no_member() -> None:
    state = HubState(("ns", "hub"))
    state.belongs_to(HUB_UID)
    state.pods.put(pod("hub-1", "earlier"), -math.inf)

    assert await taken_over(make_hub(), state) == {}


@pytest.mark.parametrize(
    ("granted_to", "reported_by", "holder"), [("pod/1", "pod/0", "pod/1"), ("", "pod/0", "pod/0"), ("", "", "unknown")]
)
async def test_the_holder_of_a_deleted_lease_is_the_one_that_the_slices_name(
    granted_to: str, reported_by: str, holder: str
) -> None:
    state = HubState(("ns", "hub"))
    state.belongs_to(HUB_UID)
    settings = Settings(lease_seconds=42)
    state.put_slice(make_slice(member="hub-1", settings=settings, granted_to=granted_to, holder=reported_by))

    assert await taken_over(make_hub(status=LISTED), state) == {"hub.hub-1": (holder, 42)}


async def test_a_hub_whose_slices_are_of_a_later_format_is_left_as_it_is() -> None:
    """An operator that was rolled back does not understand them: a child that it does not find there may run."""
    takeover, state = Takeover(), HubState(("ns", "hub"))
    state.belongs_to(HUB_UID)
    slice_0 = make_slice(member="hub-1", holder="pod/0")
    later = msgspec.structs.replace(slice_0.spec, format=FORMAT + 1)
    state.put_slice(msgspec.structs.replace(slice_0, spec=later))
    round = a_round(make_hub(), state)

    assert not await takeover.catch_up(round)

    assert round.steps.trouble() == (
        "Refused",
        "the hub can't be led: slice hub.hub-1.0 is of format 3, this operator knows 2; everything runs on; upgrade the"
        " operator again",
    )
    assert not state.leases


async def test_missing_leases_are_added_before_the_first_plan_for_a_hub_and_not_again() -> None:
    """The Hub may not have been readable when the leader began, and its Leases may have been deleted meanwhile."""
    takeover, state = Takeover(), HubState(("ns", "hub"))
    state.belongs_to(HUB_UID)
    state.put_slice(make_slice(member="hub-1", holder="pod/0"))
    assert await takeover.catch_up(a_round(make_hub(), state))
    assert state.leases.keys() == {"hub.hub-1"}

    state.leases.forget("hub.hub-1")
    assert await takeover.catch_up(a_round(make_hub(), state))

    assert not state.leases
