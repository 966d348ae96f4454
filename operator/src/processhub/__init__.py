"""ProcessHub for Kubernetes: small, named, stateful workers, placed, found, restarted, moved and fenced.

``Actor`` is what a Python child derives from, ``method`` marks the methods that are called by name, ``Hub`` is the
client, and all others are its errors. All are loaded on first use, so that a worker's process imports nothing but the
standard library.
"""

from __future__ import annotations

TYPE_CHECKING = False  # That of typing, which a member's watchdog would have in memory for nothing else.
if TYPE_CHECKING:
    from typing import Any

    from processhub.actor import Actor
    from processhub.client.errors import (
        ChildMappingMismatch,
        ChildrenFailed,
        HubNotFound,
        InvalidChild,
        InvalidHook,
        MissingChildMapping,
        NoChildren,
        Unreachable,
    )
    from processhub.client.hub import Hub
    from processhub.methods import method
    from processhub.requesterrors import (
        BadRequest,
        Busy,
        ChildNotFound,
        HubError,
        NoOwner,
        NotAllowed,
        OutcomeUnknown,
        Partitioned,
        RequestFailed,
        Timeout,
    )

__all__ = [
    "Actor",
    "BadRequest",
    "Busy",
    "ChildMappingMismatch",
    "ChildNotFound",
    "ChildrenFailed",
    "Hub",
    "HubError",
    "HubNotFound",
    "InvalidChild",
    "InvalidHook",
    "MissingChildMapping",
    "NoChildren",
    "NoOwner",
    "NotAllowed",
    "OutcomeUnknown",
    "Partitioned",
    "RequestFailed",
    "Timeout",
    "Unreachable",
    "method",
]
__version__ = "0.1.0"

_WHERE = {"Actor": "processhub.actor", "Hub": "processhub.client.hub", "method": "processhub.methods"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'processhub' has no attribute {name!r}")
    from importlib import import_module

    # The errors of requests do without the client, which needs more than the standard library.
    modules = (_WHERE[name],) if name in _WHERE else ("processhub.requesterrors", "processhub.client.errors")
    return next(getattr(module, name) for module in map(import_module, modules) if hasattr(module, name))
