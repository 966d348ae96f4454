"""ProcessHub for Kubernetes: small, named, stateful workers, placed, found, restarted, moved and fenced.

``Actor`` is what a Python child derives from, ``method`` marks the methods that are called by name, and ``Hub`` is the
client. All are loaded on first use, so that a worker's process imports nothing but the standard library.
"""

from __future__ import annotations

TYPE_CHECKING = False  # That of typing, which a member's watchdog would have in memory for nothing else.
if TYPE_CHECKING:
    from typing import Any

    from processhub.actor import Actor
    from processhub.client.hub import Hub
    from processhub.methods import method
    from processhub.requesterrors import HubError

__all__ = ["Actor", "Hub", "HubError", "method"]
__version__ = "0.1.0"

_WHERE = {
    "Actor": "processhub.actor",
    "Hub": "processhub.client.hub",
    "HubError": "processhub.requesterrors",
    "method": "processhub.methods",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'processhub' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
