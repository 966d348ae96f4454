"""What is said of an actor's failure: its text in the report, and its traceback in the log."""

from __future__ import annotations

import contextlib
import sys
import traceback


def text_of(error: BaseException) -> str:
    """The text of an error, which the user's code makes: that may fail, or have half of a surrogate pair in it."""
    try:
        return str(error).encode(errors="replace").decode()
    except Exception as failure:  # noqa: BLE001 whatever it is, the crash is to be reported
        return f"its text can't be made: {type(failure).__name__}"


def print_trace(error: BaseException) -> None:
    """Print the traceback to stderr, without the frames of this package. An actor may have closed that stream."""
    entries = traceback.extract_tb(error.__traceback__)
    own = [entry for entry in entries if "processhub/agent/runner" not in entry.filename]
    lines = ["Traceback (most recent call last):\n"] if own else []
    lines += traceback.format_list(own) + traceback.format_exception_only(type(error), error)
    with contextlib.suppress(Exception):
        sys.stderr.write("".join(lines))
