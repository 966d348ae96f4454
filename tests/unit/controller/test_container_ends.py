"""Whether the container that holds a Lease has ended, judged by the order of observations and not by a node's clock."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from builders import HUB_UID, make_hub
from processhub.api.kubernetes import Lease, Pod
from processhub.controller.observe.members import Member, observe_members
from processhub.controller.store.hubstate import HubState
from processhub.core.model.membership import Phase

KEY = ("ns", "hub")
LABELS = {"processhub.dev/hub": "hub", "processhub.dev/hub-uid": HUB_UID, "processhub.dev/member": "hub-0"}


class Watched:
    """A member as the watches show it: its Lease and its pod, each at a second of the operator's own clock."""

    def __init__(self, **migration: Any) -> None:
        spec = {"members": {"replicas": 1}, "migration": migration}
        self.hub = make_hub(spec=spec)
        self.state, self.restarting_since = HubState(KEY), dict[str, float]()

    def lease(self, seen: float, nonce: str, acquired: str, renewed: str) -> None:
        spec = {"holderIdentity": f"pod-uid/{nonce}", "acquireTime": acquired, "renewTime": renewed}
        metadata = {"name": "hub.hub-0", "namespace": "ns", "uid": "l", "labels": LABELS}
        self.state.put_lease(msgspec.convert({"metadata": metadata, "spec": spec}, Lease), seen)

    def pod(self, seen: float, **status: Any) -> None:
        metadata = {"name": "hub-0", "namespace": "ns", "uid": "pod-uid", "labels": LABELS}
        statuses = [{"name": "agent", **status}]
        self.state.pods.put(
            msgspec.convert({"metadata": metadata, "status": {"containerStatuses": statuses}}, Pod), seen
        )

    def judged(self, now: float) -> Member:
        (member,) = observe_members(self.hub, self.state, {}, self.restarting_since, now, leases_observed=True).values()
        return member


def restarted(ended: str, began: str) -> dict[str, Any]:
    """An agent's container that runs after another one of the pod has ended, by the node's clock."""
    last = {"terminated": {"exitCode": 255, "finishedAt": ended}}
    return {"ready": True, "restartCount": 1, "state": {"running": {"startedAt": began}}, "lastState": last}


@pytest.mark.parametrize("policy", ["Hold", "Move"])
def test_a_node_clock_that_is_set_back_does_not_make_a_live_member_terminated(policy: str) -> None:
    """The node started with its clock 40 s fast, which was corrected before the agent took its Lease."""
    member = Watched(onRestart=policy)
    member.pod(1.0, **restarted("2026-12-01T10:00:39Z", "2026-12-01T10:00:40Z"))

    for second in range(0, 60, 3):
        member.lease(
            5.0 + second, "n2", "2026-12-01T10:00:03.000000Z", f"2026-12-01T10:00:{3 + second % 57:02}.000000Z"
        )

        assert member.judged(5.5 + second).phase is Phase.LIVE


def test_a_lease_that_is_renewed_after_the_end_was_reported_refutes_it() -> None:
    member = Watched(onRestart="Move")
    member.pod(0.0, ready=True, restartCount=0, state={"running": {"startedAt": "2026-12-01T10:00:00Z"}})
    member.lease(1.0, "n2", "2026-12-01T10:00:03.000000Z", "2026-12-01T10:00:03.000000Z")
    member.pod(2.0, **restarted("2026-12-01T10:00:39Z", "2026-12-01T10:00:40Z"))

    member.lease(4.0, "n2", "2026-12-01T10:00:03.000000Z", "2026-12-01T10:00:06.000000Z")

    assert member.judged(4.5).phase is Phase.LIVE


@pytest.mark.parametrize(("policy", "phase"), [("Hold", Phase.HELD), ("Move", Phase.GONE)])
def test_a_holder_whose_end_is_reported_after_its_last_write_has_ended(policy: str, phase: Phase) -> None:
    member = Watched(onRestart=policy)
    member.pod(0.0, ready=True, restartCount=0, state={"running": {"startedAt": "2026-12-01T10:00:00Z"}})
    member.lease(1.0, "n1", "2026-12-01T10:00:03.000000Z", "2026-12-01T10:00:03.000000Z")

    member.pod(2.0, **restarted("2026-12-01T10:00:05Z", "2026-12-01T10:00:06Z"))

    assert member.judged(2.5).phase is phase


def test_an_end_before_the_lease_was_taken_is_not_the_holders_even_if_it_is_reported_late() -> None:
    member = Watched(onRestart="Move")
    member.pod(0.0, ready=True, restartCount=0, state={"running": {"startedAt": "2026-12-01T10:00:00Z"}})
    member.lease(1.0, "n2", "2026-12-01T10:00:08.000000Z", "2026-12-01T10:00:08.000000Z")

    member.pod(2.0, **restarted("2026-12-01T10:00:05Z", "2026-12-01T10:00:06Z"))

    assert member.judged(2.5).phase is Phase.LIVE


def test_an_end_reported_before_a_new_leader_started_proves_nothing() -> None:
    """Nobody knows which was first, the end or the Lease's last renewal: if the holder is gone, the Lease expires."""
    member = Watched(onRestart="Move")
    member.pod(-math.inf, **restarted("2026-12-01T10:00:05Z", "2026-12-01T10:00:06Z"))
    member.lease(1.0, "n1", "2026-12-01T10:00:03.000000Z", "2026-12-01T10:00:03.000000Z")

    assert member.judged(2.0).phase is Phase.LIVE
    assert member.judged(17.5).phase is Phase.GONE


def test_restarting_the_clocks_of_leases_loses_no_proof() -> None:
    member = Watched(onRestart="Move")
    member.pod(0.0, ready=True, restartCount=0, state={"running": {"startedAt": "2026-12-01T10:00:00Z"}})
    member.lease(1.0, "n1", "2026-12-01T10:00:03.000000Z", "2026-12-01T10:00:03.000000Z")
    member.pod(2.0, **restarted("2026-12-01T10:00:05Z", "2026-12-01T10:00:06Z"))

    member.state.leases.restart_clocks(3.0)

    assert member.judged(3.5).phase is Phase.GONE
