"""The fields that all Kubernetes objects have: metadata, owner references, conditions."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

GROUP = "processhub.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
MESSAGE_MAX = 32768  # characters of a condition's message, by the schema


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The base of all resource structs: immutable, camelCase on the wire, without fields that have their default."""


class EnvVar(Wire, frozen=True, kw_only=True):
    """An environment variable of a container or an exec child."""

    name: str
    value: str = ""


class OwnerReference(Wire, frozen=True, kw_only=True):
    """An entry of metadata.ownerReferences."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Wire, frozen=True, kw_only=True):
    """The part of metadata that the project reads; times are RFC 3339 text."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """The pair ``(namespace, name)``."""
        return self.namespace, self.name

    def owned_by(self, uid: str) -> bool:
        """Whether the object with this uid is among the owners."""
        return any(reference.uid == uid for reference in self.owner_references)

    def controlled_by(self, uid: str) -> bool:
        """Whether the object with this uid is the owner that has made this one, and not just goes before it."""
        return any(reference.uid == uid and reference.controller for reference in self.owner_references)


class PartialObject(Wire, frozen=True, kw_only=True):
    """An object of any kind that was requested with its metadata only (PartialObjectMetadata)."""

    metadata: ObjectMeta


class Condition(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One entry of status.conditions (the Kubernetes convention; status is True, False or Unknown)."""

    type: str
    status: str
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


def condition_of(kind: str, holds: bool, reason: str, message: str, generation: int) -> Condition:
    """The condition of an object of this generation; ``holds`` makes its status True or False."""
    return Condition(
        type=kind,
        status="True" if holds else "False",
        reason=reason,
        message=message,
        observed_generation=generation,
    )


def find_condition(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    """The condition of this type, or None."""
    return next((condition for condition in conditions if condition.type == kind), None)


def shortened(text: str, length: int) -> str:
    """The text, or its beginning if it is longer than ``length`` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def brief(text: str, most: int) -> str:
    """The beginning of a text, at most ``most`` bytes of UTF-8. A lone surrogate becomes a question mark."""
    return text[:most].encode(errors="replace")[:most].decode(errors="ignore")


def merge_conditions(old: tuple[Condition, ...], new: Iterable[Condition | None], now: str) -> tuple[Condition, ...]:
    """Merge conditions: lastTransitionTime is kept if the status did not change, else set to ``now`` (RFC 3339).

    None stands for a condition that does not hold. A message that is longer than the schema allows is cut. Else the API
    server would reject the whole status at every attempt.
    """
    merged = []
    for condition in filter(None, new):
        before = find_condition(old, condition.type)
        kept = before is not None and before.status == condition.status and before.last_transition_time
        merged.append(
            msgspec.structs.replace(
                condition,
                message=condition.message[:MESSAGE_MAX],
                last_transition_time=before.last_transition_time if before and kept else now,
            )
        )
    return tuple(merged)
