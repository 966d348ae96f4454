"""The operator's own settings, from its environment, which the chart sets."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec


class SettingsError(Exception):
    """A variable is missing or has a wrong form. The message names it."""


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings. No ``namespaces`` means all; ``image`` is that of members; ``bind`` is the HTTP port's address."""

    pod_name: str
    pod_uid: str
    namespace: str
    namespaces: tuple[str, ...] = ()
    image: str = "processhub"
    image_pull_policy: str = "IfNotPresent"
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
    return OperatorSettings(
        pod_name=name,
        pod_uid=environ.get("POD_UID", ""),
        namespace=namespace,
        namespaces=tuple(part.strip() for part in environ.get("WATCH_NAMESPACES", "").split(",") if part.strip()),
        image=environ.get("PROCESSHUB_IMAGE", "processhub"),
        image_pull_policy=environ.get("PROCESSHUB_IMAGE_PULL_POLICY", "IfNotPresent"),
        bind=environ.get("POD_IP") or "0.0.0.0",
        port=int(port),
        log_level=environ.get("LOG_LEVEL", "INFO").upper(),
    )
