"""Errors of the operator that several packages use."""

from __future__ import annotations

from processhub.cluster.errors import ApiError, ForbiddenError


class DeposedError(Exception):
    """This leader must stop: a slice has a higher term, or what it knows of the cluster does not hold any more."""


def check_not_lost(namespace: str | None, error: ApiError) -> None:
    """Raise DeposedError if a list was refused in a namespace of its own: the next leader begins without that one."""
    if namespace is not None and isinstance(error, ForbiddenError):
        raise DeposedError(f"namespace {namespace} can't be served any more: another leader begins") from error


class UnauthorizedError(Exception):
    """The API server does not accept this process's token any more; the message says what to do."""


class LaterFormatError(Exception):
    """A slice was written by an operator of a later release, in a format that this one does not know."""


class NameConflictError(Exception):
    """The name of an object that the hub needs is taken by another owner; the message names the object."""


class BeingDeletedError(NameConflictError):
    """An object of this hub is still being deleted; the message names it."""
