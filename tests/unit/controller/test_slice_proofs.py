"""What a slice's status has to prove before an id counts as ended, for the writing leader and for the next one."""

from __future__ import annotations

import pytest

from builders import known_slice, make_slice
from processhub.api.slice import RegistrySlice
from processhub.controller.store.slices import KnownSlice
from processhub.registry.grammar import Assignment, Report

HOLDER = "pod/nonce"


def a_slice(generation: int, entry: Assignment, report: Report) -> RegistrySlice:
    """Slice 0 of a member that has read ``generation`` and reports ``report`` of the child a."""
    return make_slice({"a": entry}, {"a": report}, member="hub-1", holder=HOLDER, generation=generation)


ACTIVE = Assignment(uid="u", epoch=5, workload="w")
PASSIVE = Assignment(uid="u", epoch=12, role="Passive", workload="w")
RAN_ACTIVE = Report(uid="u", epoch=5, state="Running")
ENDS_ACTIVE = Report(uid="u", epoch=5, state="Stopping")
RUNS_PASSIVE = Report(uid="u", epoch=12, role="Passive", state="Running")


def proven(known: KnownSlice) -> bool:
    known.prove(HOLDER)
    return "a" not in known.possibly_running(HOLDER)


def test_a_demoted_copy_may_run_until_its_active_incarnation_has_ended() -> None:
    known = known_slice(a_slice(1, ACTIVE, RAN_ACTIVE))
    known.unproven["a"] = None

    known.update(a_slice(2, PASSIVE, ENDS_ACTIVE))
    assert not proven(known)
    known.update(a_slice(2, PASSIVE, RUNS_PASSIVE))
    assert proven(known)


@pytest.mark.parametrize("state", ["Stopping", "Failed", "Running"])
def test_a_demoted_copy_may_run_for_a_later_leader_too(state: str) -> None:
    known = known_slice(a_slice(3, PASSIVE, Report(uid="u", epoch=5, state=state)))

    assert not proven(known)
    known.update(a_slice(3, PASSIVE, RUNS_PASSIVE))
    assert proven(known)


def test_a_promoted_copy_that_has_not_observed_it_is_not_possibly_running() -> None:
    promoted = Assignment(uid="u", epoch=13, run=12, workload="w")

    known = known_slice(a_slice(4, promoted, RUNS_PASSIVE))

    assert proven(known)


def test_a_child_whose_report_cannot_be_read_may_run() -> None:
    known = known_slice(make_slice({}, {"a": "of another format"}, member="hub-1", holder=HOLDER, generation=2))

    assert not proven(known)
