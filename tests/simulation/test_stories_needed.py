"""Stories that fail without their rule: a proof of the stories, and of rules that few seeds break."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from . import (
    test_stories,
    test_stories_demand,
    test_stories_fencing,
    test_stories_gone,
    test_stories_pods,
    test_stories_restored,
    test_stories_views,
)
from .mutants import RARE
from .naming import pod_workload

pytestmark = pytest.mark.no_cover
EPOCHS_RISE = partial(test_stories.test_epochs_rise_where_the_leaders_lease_and_all_slices_are_deleted, restarts=False)
PAUSED = test_stories_fencing.test_an_agent_that_was_paused_starts_nothing_that_went_elsewhere
LOST_NODE = test_stories_pods.test_a_child_whose_pod_is_on_a_lost_node_starts_nowhere_else
LEASE_LOST = test_stories_demand.test_a_member_whose_lease_was_lost_keeps_nothing_under_a_view_that_closes
FOUND_BY: dict[str, Callable[[], None]] = {
    "pod-unmarked": test_stories_pods.test_the_next_leader_finds_a_pod_whose_labels_cannot_be_put_back,
    "term-unnoted": EPOCHS_RISE,
    "term-not-raised": EPOCHS_RISE,
    "slices-unread": partial(PAUSED, "read"),
    "back-at-once": (
        test_stories_restored.test_a_pod_of_a_member_that_is_back_by_a_restore_waits_until_what_ran_meanwhile_has_ended
    ),
    "gone-slices-shown": test_stories_fencing.test_an_agent_starts_nothing_by_what_a_slice_once_said_that_is_gone,
    "older-lists-believed": partial(PAUSED, "old"),
    "gone-unread": test_stories_fencing.test_a_member_whose_renewals_are_not_seen_is_not_gone,
    "removal-unproven": test_stories_fencing.test_a_child_whose_start_was_not_reported_moves_only_when_it_has_ended,
    "status-untried": test_stories_fencing.test_a_status_that_was_refused_is_written_later,
    "round-unasked": test_stories_fencing.test_an_entry_that_was_refused_is_written_later,
    "acknowledged-unread": (
        test_stories_demand.test_a_member_that_has_not_read_that_its_slice_is_gone_acknowledges_no_other
    ),
    "deleted-unnoted": test_stories_demand.test_an_id_whose_record_somebody_deleted_is_not_started_beside_what_runs,
    "closed-at-once": test_stories_demand.test_a_view_is_not_closed_for_a_member_whose_slice_somebody_deleted,
    "shares-of-all": partial(test_stories_demand.test_a_move_leaves_no_room_for_more_children_than_max, "ColdSwap"),
    "block-of-another": (
        test_stories_demand.test_a_new_leader_lets_nobody_start_what_runs_by_a_slice_that_was_deleted_before_it_led
    ),
    "left-at-once": test_stories_demand.test_a_child_that_still_ends_is_not_started_by_the_member_that_the_view_names,
    "placed-anywhere": test_stories_demand.test_a_declared_child_is_placed_elsewhere_only_when_the_view_is_closed,
    "other-holder-ignored": (
        test_stories_fencing.test_an_agent_that_was_replaced_ends_its_children_when_it_sees_the_next_holder
    ),
    "older-taken": test_stories_fencing.test_an_answer_that_comes_late_replaces_nothing_that_was_seen_since,
    "leftovers-unseen": (
        test_stories_gone.test_a_hub_that_is_created_again_starts_nothing_beside_a_member_of_the_former
    ),
    "closing-starts": LEASE_LOST,
    "made-kept": LEASE_LOST,
    "outcome-known": test_stories_fencing.test_a_child_whose_entry_may_be_written_yet_is_started_nowhere_else,
    "uncertain-forgotten": test_stories_fencing.test_a_child_whose_slice_may_be_created_yet_is_started_nowhere_else,
    "proved-by-anybody": test_stories_gone.test_an_end_is_proven_only_by_an_agent_whose_lease_was_seen,
    "any-term-starts": (
        test_stories_fencing.test_an_agent_starts_nothing_by_a_slice_that_a_former_leader_has_created_late
    ),
    "any-grant-starts": test_stories_fencing.test_an_agent_starts_nothing_that_was_granted_to_the_one_before_it,
    "new-holder-unheard": test_stories.test_a_new_agent_counts_as_one_that_runs_nothing_only_when_it_has_said_so,
    "identity-kept": test_stories_views.test_the_next_agent_of_a_member_gives_no_epoch_of_the_former_one_again,
    "session-goes-on": (
        test_stories_views.test_a_member_whose_lease_was_lost_starts_nothing_before_it_has_read_its_slices
    ),
    "registry-behind": test_stories_views.test_a_member_starts_no_id_before_it_has_read_what_others_have_started,
    "opened-unready": test_stories_views.test_no_view_is_opened_while_an_id_comes_onto_the_record,
    "blind-judgement": test_stories_fencing.test_no_child_ends_while_the_api_server_takes_no_renewals,
    "clocks-run-on": test_stories_fencing.test_no_child_ends_while_the_api_server_takes_no_renewals,
    "pods-unseen": partial(LOST_NODE, "becomes a process"),
    "pod-kept": partial(
        test_stories_pods.test_an_edited_child_starts_when_the_pod_of_the_former_template_is_gone, pod_workload("v")
    ),
    "pod-off-the-record": test_stories_demand.test_a_request_starts_nothing_while_the_pod_of_its_id_is_there,
    "pod-gone-unread": test_stories_pods.test_a_process_starts_only_when_the_pod_that_has_lost_its_labels_is_gone,
}


@pytest.mark.parametrize("mutant", RARE)
def test_a_story_fails_without_its_rule(mutant: str) -> None:
    with RARE[mutant].put_in(), pytest.raises((AssertionError, TimeoutError)):
        FOUND_BY[mutant]()
