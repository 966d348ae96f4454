"""Names and labels derived from hub, member and child id, the same way in every part."""

from __future__ import annotations

import re

import xxhash

LABEL_NAME = "app.kubernetes.io/name"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_HUB = "processhub.dev/hub"
LABEL_HUB_UID = "processhub.dev/hub-uid"
LABEL_MEMBER = "processhub.dev/member"
LABEL_CHILD = "processhub.dev/child"
ANNOTATION_CHILD_ID = "processhub.dev/child-id"
ANNOTATION_CHILD_UID = "processhub.dev/child-uid"
ANNOTATION_EPOCH = "processhub.dev/epoch"
ANNOTATION_ROLE = "processhub.dev/role"
ANNOTATION_WORKLOAD = "processhub.dev/workload"
ANNOTATION_PAUSED = "processhub.dev/paused"
ANNOTATION_TERM = "processhub.dev/term"
ANNOTATION_MODE = "processhub.dev/mode"
ANNOTATION_JOINING = "processhub.dev/joining"
ANNOTATION_FORCE_SCALE_DOWN = "processhub.dev/force-scale-down"

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_NAME_MAX = 253
_LABEL_MAX = 63


def id_hash(child_id: str) -> str:
    """Sixteen hex digits of xxh3-64 over the id's UTF-8 bytes."""
    return xxhash.xxh3_64_hexdigest(child_id.encode())


def child_object_name(child_id: str) -> str:
    """The Child object's name for an id: the id itself where it is a DNS label, else a slug and its hash.

    ``a`` → ``a``; ``tenant/42`` → ``tenant-42-<10 hex digits>``.
    """
    if _DNS_LABEL.match(child_id):
        return child_id
    slug = re.sub(r"[^a-z0-9]+", "-", child_id.lower()).strip("-")[:40].strip("-")
    digits = id_hash(child_id)[:10]
    return f"{slug}-{digits}" if slug else f"child-{digits}"


def child_pod_name(hub: str, hub_uid: str, child_id: str) -> str:
    """The name of a pod child's Pod: one for each id of a hub, so that the API server keeps it from having two."""
    return f"{hub}-{id_hash(f'{hub_uid}/{child_id}')}"


def _bounded(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit - 11].rstrip('-.')}-{id_hash(text)[:10]}"


def label_value(text: str) -> str:
    """``text`` as a label's value: itself up to 63 characters, else shortened with a hash."""
    return _bounded(text, _LABEL_MAX)


def slice_name(hub: str, member: str, index: int) -> str:
    """The name of a member's slice number ``index`` (from 0)."""
    return f"{_bounded(f'{hub}.{member}', _NAME_MAX - 6)}.{index}"


def lease_name(hub: str, member: str) -> str:
    """The name of a member's Lease."""
    return _bounded(f"{hub}.{member}", _NAME_MAX)


def member_account(hub: str) -> str:
    """The ServiceAccount (and RoleBinding) of a hub's members."""
    return f"processhub-{hub}"


def headless_service(hub: str) -> str:
    """The headless Service that gives members their DNS names."""
    return f"{hub}-members"


def member_ordinal(hub: str, member: str) -> int | None:
    """The ordinal of a Replicas member's name (``my-hub-2`` → 2), None where it is no such name."""
    prefix, _, digits = member.rpartition("-")
    if prefix != hub or not digits.isascii() or not digits.isdigit() or (len(digits) > 1 and digits[0] == "0"):
        return None
    return int(digits)
