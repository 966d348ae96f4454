"""Errors of the operator's own that more than one room knows."""

from __future__ import annotations


class DeposedError(Exception):
    """A slice has a higher term than ours: another leader is newer."""


class NameConflictError(Exception):
    """An object of the name that the hub needs belongs to somebody else; the message names it."""


class BeingDeletedError(NameConflictError):
    """An object of this hub is still being deleted; the message names it."""
