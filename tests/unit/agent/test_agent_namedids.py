"""The ids that slices name: always what a look at every slice would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from builders import make_slice
from processhub.agent.registry.namedids import NamedIds
from processhub.api.naming import slice_name
from processhub.api.slice import RegistrySlice

ME, MEMBERS, IDS = "h-0", ("h-0", "h-1", "h-2"), ("a", "b", "c")
Change = tuple[str, RegistrySlice | None]


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """A change of a slice: its name, and what it says now or that it is gone."""
    member, index = draw(st.sampled_from(MEMBERS)), draw(st.integers(0, 1))
    name = slice_name("h", member, index)
    if draw(st.integers(0, 4)) == 0:
        return name, None
    entries, reports = (dict.fromkeys(draw(st.sets(st.sampled_from(IDS))), "text") for _ in range(2))
    return name, make_slice(entries, reports, hub="h", member=member, index=index)


@given(st.lists(changes(), max_size=12), st.sets(st.integers(0, 11)))
def test_it_says_what_a_look_at_every_slice_finds(history: list[Change], asked_after: set[int]) -> None:
    named, present = NamedIds(ME), dict[str, RegistrySlice]()
    for number, (name, item) in enumerate(history):
        named.take(name, item)
        present.pop(name, None)
        if item is not None:
            present[name] = item
        if number not in asked_after and number < len(history) - 1:
            continue
        entered = {known for found in present.values() for known in found.spec.entries}
        elsewhere = {known for found in present.values() if found.spec.member != ME for known in found.status.reports}
        assert {known for known in IDS if named.has_entry(known)} == entered
        assert {known for known in IDS if named.may_run(known)} == entered | elsewhere
