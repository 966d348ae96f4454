"""Names derived from hub, member and id: valid for Kubernetes, unique, and the same in every process."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processhub.api.naming import (
    child_object_name,
    id_hash,
    label_value,
    lease_name,
    member_ordinal,
    slice_name,
)
from processhub.api.switches import format_drained, parse_drained

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?\Z")

child_ids = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=253)
dns_labels = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
node_names = st.lists(dns_labels, min_size=1, max_size=8).map(".".join)


@pytest.mark.parametrize(
    ("child_id", "name"),
    [
        ("a", "a"),
        ("tenant-42", "tenant-42"),
        ("42", "42"),
        ("eu.tenant-42", "eu.tenant-42"),
        ("a" * 253, "a" * 253),
        ("a..b", "a-b-a47a93ea8b"),
        ("a.-b", "a-b-32bbb5f2fd"),
        (".a", "a-81597d9b7c"),
        ("tenant/42", "tenant-42-86c6c1139e"),
        ("Tenant 42", "tenant-42-c080cff2b3"),
        ("🎲", "child-62c68f1a66"),
        ("-a", "a-185435ef7d"),
        ("a\n", "a-e841f27363"),
    ],
)
def test_a_child_object_is_named_by_its_id_or_a_slug_and_its_hash(child_id: str, name: str) -> None:
    assert child_object_name(child_id) == name


@given(child_ids | node_names)
def test_a_child_objects_name_is_a_dns_name(child_id: str) -> None:
    name = child_object_name(child_id)

    assert _SUBDOMAIN.match(name)
    assert len(name) <= 253
    assert (name == child_id) == bool(len(child_id) <= 253 and _SUBDOMAIN.match(child_id))


@given(child_ids, child_ids)
def test_different_ids_have_different_names(one: str, other: str) -> None:
    assert (child_object_name(one) == child_object_name(other)) == (one == other)


def test_ids_with_the_same_slug_have_different_names() -> None:
    names = {child_object_name(text) for text in ("a/b", "a b", "A-b", "a.b", "a--b", "a-b", "a_b")}

    assert len(names) == 7


@given(child_ids)
def test_an_id_hash_is_sixteen_hex_digits(child_id: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", id_hash(child_id))


@given(st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,250}[A-Za-z0-9])?", fullmatch=True))
def test_a_label_value_is_valid_and_unchanged_if_it_fits(text: str) -> None:
    value = label_value(text)

    assert len(value) <= 63
    assert _LABEL_VALUE.match(value)
    assert value == text or len(text) > 63


@given(dns_labels, node_names.filter(lambda name: len(name) <= 253), st.integers(0, 9999))
def test_slice_and_lease_names_are_subdomains_whatever_the_node_is_called(hub: str, member: str, index: int) -> None:
    for name in (slice_name(hub, member, index), lease_name(hub, member)):
        assert len(name) <= 253
        assert _SUBDOMAIN.match(name)


def test_long_member_names_that_differ_at_the_end_have_different_slices() -> None:
    stem = ".".join(["node"] * 50)

    names = {slice_name("hub", f"{stem}-{number}", 0) for number in range(50)}

    assert len(names) == 50


def test_slices_of_one_member_are_numbered() -> None:
    assert slice_name("my-hub", "my-hub-0", 0) == "my-hub.my-hub-0.0"
    assert slice_name("my-hub", "my-hub-0", 12) == "my-hub.my-hub-0.12"
    assert lease_name("my-hub", "my-hub-0") == "my-hub.my-hub-0"


@pytest.mark.parametrize(
    ("member", "ordinal"),
    [
        ("my-hub-0", 0),
        ("my-hub-12", 12),
        ("my-hub-012", None),
        ("my-hub-", None),
        ("my-hub", None),
        ("other-3", None),
        ("my-hub-²", None),
        ("my-hub-x", None),
    ],
)
def test_an_ordinal_is_read_only_from_a_replicas_members_name(member: str, ordinal: int | None) -> None:
    assert member_ordinal("my-hub", member) == ordinal


def test_drained_members_are_read_back_as_they_were_written() -> None:
    drained = {"my-hub-2": True, "my-hub-1": False}

    assert format_drained(drained) == "my-hub-1,my-hub-2=force"
    assert parse_drained(" my-hub-1, my-hub-2=force,") == drained
    assert parse_drained("") == {}
