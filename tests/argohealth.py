"""Argo CD's health of an object, by the script of docs/how-to/argocd-cm.yaml, in Argo CD's Lua (5.1)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from lupa.lua51 import LuaRuntime

_PATCH = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "argocd-cm.yaml"
_KEY = "resource.customizations.health.processhub.dev_"


@cache
def scripts() -> dict[str, str]:
    """Return the script of each kind."""
    data = yaml.safe_load(_PATCH.read_text())["data"]
    return {key.removeprefix(_KEY): script for key, script in data.items()}


def health(item: dict[str, Any]) -> tuple[str, str]:
    """Return status and message for an object, which may have no kind."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(item, recursive=True)
    answer = lua.execute(scripts()[item.get("kind", "Hub")])
    return answer["status"], answer["message"]
