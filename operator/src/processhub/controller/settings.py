"""The operator's own settings, from its environment, which the chart sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec


class SettingsError(Exception):
    """A variable is missing or has a wrong form. The message names it."""


def _resources() -> dict[str, Any]:
    return {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}


def _pod_security_context() -> dict[str, Any]:
    return {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}


class MemberDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The chart's value ``members.defaults``, which applies to all members. The fields of a Hub override it.

    ``image`` "" is the operator's own. ``template`` is a PodTemplateSpec, as ``spec.members.template`` of a Hub.
    """

    image: str = ""
    resources: dict[str, Any] = msgspec.field(default_factory=_resources)
    pod_security_context: dict[str, Any] = msgspec.field(default_factory=_pod_security_context)
    template: dict[str, Any] = {}


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings. No ``namespaces`` means all; ``image`` is that of members; ``bind`` is the HTTP port's address."""

    pod_name: str
    pod_uid: str
    namespace: str
    namespaces: tuple[str, ...] = ()
    image: str = "processhub"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    member_defaults: MemberDefaults = MemberDefaults()
    bind: str = "0.0.0.0"
    port: int = 8080
    log_level: str = "INFO"


def from_environment(environ: Mapping[str, str] = os.environ) -> OperatorSettings:
    """Read the settings. Raises SettingsError."""
    try:
        name, namespace = environ["POD_NAME"], environ["POD_NAMESPACE"]
    except KeyError as error:
        raise SettingsError(
            f"the environment variable {error.args[0]} is not set; the operator runs in a pod that gets it by fieldRef"
        ) from error
    port = environ.get("PORT", "8080")
    if not port.isdigit():
        raise SettingsError(f"PORT={port!r} is not a number")
    try:
        defaults = msgspec.json.decode(environ.get("PROCESSHUB_MEMBER_DEFAULTS") or "{}", type=MemberDefaults)
    except msgspec.DecodeError as error:
        raise SettingsError(f"PROCESSHUB_MEMBER_DEFAULTS (the chart's members.defaults): {error}") from error
    return OperatorSettings(
        pod_name=name,
        pod_uid=environ.get("POD_UID", ""),
        namespace=namespace,
        namespaces=_list(environ.get("WATCH_NAMESPACES", "")),
        image=environ.get("PROCESSHUB_IMAGE", "processhub"),
        image_pull_policy=environ.get("PROCESSHUB_IMAGE_PULL_POLICY", "IfNotPresent"),
        image_pull_secrets=_list(environ.get("PROCESSHUB_IMAGE_PULL_SECRETS", "")),
        member_defaults=defaults,
        bind=environ.get("POD_IP") or "0.0.0.0",
        port=int(port),
        log_level=environ.get("LOG_LEVEL", "INFO").upper(),
    )


def _list(text: str) -> tuple[str, ...]:
    """The parts of a text between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
