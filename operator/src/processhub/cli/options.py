"""The options that most verbs share. Nothing heavy is imported here: --help reads it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Output(StrEnum):
    """Values of -o."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True)
class Target:
    """What the common options say; None where one is left out."""

    hub: str | None = None
    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None
    output: Output = Output.TABLE
