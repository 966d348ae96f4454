"""Names and labels that are derived from hub, member and child id, in the same way everywhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

import xxhash

LABEL_NAME = "app.kubernetes.io/name"
"""``processhub``, on every object that ProcessHub makes."""
LABEL_COMPONENT = "app.kubernetes.io/component"
"""``operator`` on the operator's own objects, ``child`` on the Pods of pod children, ``agent`` on a hub's others."""
LABEL_HUB = "processhub.dev/hub"
"""The hub's name."""
LABEL_HUB_UID = "processhub.dev/hub-uid"
"""The Hub's uid. It distinguishes the hub's objects from those of an earlier Hub of the same name."""
LABEL_MEMBER = "processhub.dev/member"
"""The member's name; with more than 63 characters it is shortened and gets a hash."""
LABEL_CHILD = "processhub.dev/child"
"""Sixteen hex digits of the xxh3-64 of a child's id. The id itself is an annotation."""

ANNOTATION_PAUSED = "processhub.dev/paused"
"""An order, on a Hub: while it is ``true``, the operator does not reconcile the hub."""
ANNOTATION_DRAINED = "processhub.dev/drained"
"""An order, on a Hub (``kubectl hub drain``): the members to empty; with ``=force``, of bound children too."""
ANNOTATION_FORCE_SCALE_DOWN = "processhub.dev/force-scale-down"
"""An order, on a Hub: while it is ``true``, a scale-down stops children that are bound to their member."""
ANNOTATION_QUORUM_RESET = "processhub.dev/quorum-reset"
"""An order, on a Hub (``kubectl hub quorum reset``): any text. The operator removes it when it is carried out."""
ANNOTATION_MOVE_TO = "processhub.dev/move-to"
"""An order, on a Child (``kubectl hub move``): the member to move to. The operator removes it when it is carried out.

On a ChildSet the value is a JSON object: ids of children of the set, and the member that each is to move to. On a Hub
it is the same, with ids of children that requests have started.
"""
ANNOTATION_MOVE_REFUSED = "processhub.dev/move-refused"
"""The answer, on a Child: the member that it can't be moved to, and why. On a ChildSet or Hub it is a JSON object, by
id."""
ANNOTATION_STOP = "processhub.dev/stop"
"""An order, on a Hub (``kubectl hub stop``): a JSON object of ids of children that requests have started, and the epoch
of the run that is to end. The operator removes each when it is carried out."""
ANNOTATION_NODES = "processhub.dev/nodes"
"""An order, on a Child of a Guided hub (``kubectl hub move``): a JSON object with the members that run the child, and
the spec.nodes that they replace. An edit of spec.nodes ends it, and the operator removes it."""
ANNOTATION_HOOKS = "processhub.dev/hooks"
"""An order, on a Hub: a JSON object with the hooks that clients registered, and the ones of spec.hooks that they
cancelled. An edit of spec.hooks wins over both."""

ANNOTATION_CHILD_ID = "processhub.dev/child-id"
"""On a Child and on a pod child's Pod: the child's id."""
ANNOTATION_START = "processhub.dev/start"
"""On a Child: the call of a client that created it."""
ANNOTATION_CHILD_UID = "processhub.dev/child-uid"
"""On a pod child's Pod: the uid of its Child."""
ANNOTATION_EPOCH = "processhub.dev/epoch"
"""On a pod child's Pod: the epoch."""
ANNOTATION_RUN = "processhub.dev/run"
"""On a pod child's Pod: the epoch under which it was started. Its epoch is later if it was made active since."""
ANNOTATION_ROLE = "processhub.dev/role"
"""On a pod child's Pod: the role."""
ANNOTATION_TEMPLATE = "processhub.dev/template"
"""On a member's pod: the hash of the pod template that it was made by."""
ANNOTATION_WORKLOAD = "processhub.dev/workload"
"""On a pod child's Pod: the hash of its workload."""
ANNOTATION_TERM = "processhub.dev/term"
"""On the operator's Lease: the leader's term."""
ANNOTATION_LEADER = "processhub.dev/leader"
"""On the operator's Lease: a JSON object with the leader's pod and address, by which its standbys see its end."""
ANNOTATION_MODE = "processhub.dev/mode"
"""On a member's Lease: the hub's members.mode, for the admission policy."""
ANNOTATION_LOAD = "processhub.dev/load"
"""On a member's Lease: the CPU and memory that its children use."""
ANNOTATION_REFUSED = "processhub.dev/refused"
"""On a member's Lease: why the API server does not store what the member reports in its slices."""
ANNOTATION_JOINING = "processhub.dev/joining"
"""On a member's slice 0: the member is joining, and its share has not been moved yet."""
ANNOTATION_SETTLED = "processhub.dev/settled"
"""On a member's slice 0: the strategy and the weights by which the member has its share."""

ENV_CHILD_ID = "HUB_CHILD_ID"  # environment variable of each child, including a pod child's Pod: the child's id
ENV_MEMBER = "HUB_MEMBER"  # environment variable of each child: the name of its member
GATE_SOLE = "processhub.dev/sole"  # scheduling gate of a pod child's Pod, until the Pod is known to be the only one
AUDIENCE = "processhub"  # audience of the tokens for requests to members

_DIGITS = re.compile(r"([0-9]+)")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_NAME_MAX = 253
_LABEL_MAX = 63


def is_child_id(text: str) -> bool:
    """Whether the text may be the id of a child: 1 to 253 bytes of UTF-8 without control characters."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # a lone surrogate, which JSON may have
        return False
    return 1 <= size <= 253 and not any(unicodedata.category(c) == "Cc" for c in text)


def id_hash(child_id: str) -> str:
    """Sixteen hex digits of xxh3-64 over the id's UTF-8 bytes."""
    return xxhash.xxh3_64_hexdigest(child_id.encode())


def child_object_name(child_id: str) -> str:
    """The name of the Child object for an id: the id itself if it is a DNS name, else a slug and a hash.

    ``a.b`` → ``a.b``; ``tenant/42`` → ``tenant-42-<10 hex digits>``.
    """
    if len(child_id) <= _NAME_MAX and _DNS_NAME.match(child_id):
        return child_id
    slug = re.sub(r"[^a-z0-9]+", "-", child_id.lower()).strip("-")[:40].strip("-")
    digits = id_hash(child_id)[:10]
    return f"{slug}-{digits}" if slug else f"child-{digits}"


def child_object_names(hub: str, child_id: str) -> tuple[str, str]:
    """The names that a Child object for an id of this hub may get: the second one if another child has the first.

    Names are unique in a namespace, and ids only in a hub.
    """
    return child_object_name(child_id), child_object_name(f"{hub}/{child_id}")


def child_pod_name(hub: str, hub_uid: str, child_id: str, member: str = "") -> str:
    """The name of a pod child's Pod. Each id of a hub has one name, so the API server prevents a second Pod.

    If the hub keeps copies, there is one name for each id and ``member``.
    """
    copy = f"\0{label_value(member)}" if member else ""
    return f"{hub}-{id_hash(f'{hub_uid}/{child_id}{copy}')}"


def run_of(annotations: Mapping[str, str]) -> str:
    """The epoch under which a pod child's Pod was started, as text."""
    return annotations.get(ANNOTATION_RUN) or annotations.get(ANNOTATION_EPOCH, "")


def child_pod_names(hub: str, hub_uid: str, child_id: str, member: str) -> tuple[str, str]:
    """The two names that a Pod of the child on the member may have: as the only copy, and as one of several."""
    return child_pod_name(hub, hub_uid, child_id), child_pod_name(hub, hub_uid, child_id, member)


def _bounded(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit - 11].rstrip('-.')}-{id_hash(text)[:10]}"


def label_value(text: str) -> str:
    """``text`` as the value of a label: unchanged up to 63 characters, else shortened with a hash."""
    return _bounded(text, _LABEL_MAX)


def slice_name(hub: str, member: str, index: int) -> str:
    """The name of a member's slice number ``index`` (from 0)."""
    return f"{_bounded(f'{hub}.{member}', _NAME_MAX - 6)}.{index}"


def lease_name(hub: str, member: str) -> str:
    """The name of a member's Lease."""
    return _bounded(f"{hub}.{member}", _NAME_MAX)


def member_account(hub: str) -> str:
    """The name of the ServiceAccount (and RoleBinding) of a hub's members."""
    return f"processhub-{hub}"


def headless_service(hub: str) -> str:
    """The name of the headless Service that gives members their DNS names."""
    return f"{hub}-members"


def server_name(hub: str, namespace: str) -> str:
    """The name for which the certificates of a hub's members are valid: the DNS name of its Service."""
    return f"{hub}.{namespace}.svc"


def authorities_config_map(hub: str) -> str:
    """The name of the ConfigMap with the certificates by which a hub's members are verified.

    It has a prefix, because ConfigMaps of users often have the name of a workload.
    """
    return f"processhub-{hub}-ca"


def member_ordinal(hub: str, member: str) -> int | None:
    """The ordinal in the name of a Replicas member (``my-hub-2`` → 2), or None if it is not such a name."""
    prefix, _, digits = member.rpartition("-")
    if prefix != hub or not digits.isascii() or not digits.isdigit() or (len(digits) > 1 and digits[0] == "0"):
        return None
    return int(digits)


def natural_order(text: str) -> tuple[list[str | int], str]:
    """A sort key that orders numbers in texts by their value: ``a-2`` is before ``a-10``."""
    return [int(part) if index % 2 else part for index, part in enumerate(_DIGITS.split(text))], text
