"""What callers of the client import, they import from ``processhub``."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import processhub
import processhub.client.errors
import processhub.requesterrors
from processhub.requesterrors import HubError


def errors_of(module: ModuleType) -> list[type]:
    """The errors that the module defines."""
    return [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, HubError) and item.__module__ == module.__name__
    ]


ERRORS = [*errors_of(processhub.requesterrors), *errors_of(processhub.client.errors)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_error_of_the_client_is_imported_from_the_package(error: type) -> None:
    assert getattr(processhub, error.__name__) is error
    assert error.__name__ in processhub.__all__


def test_all_names_of_the_package_can_be_imported() -> None:
    assert len(ERRORS) >= 18
    assert [name for name in processhub.__all__ if not hasattr(processhub, name)] == []


def test_an_actor_that_catches_an_error_of_a_request_imports_nothing_of_the_client() -> None:
    """It may run in the user's own Python, which has no package but the standard library."""
    program = "import sys; from processhub import OutcomeUnknown, Timeout; print('msgspec' in sys.modules)"

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert shown.stdout == "False\n"
