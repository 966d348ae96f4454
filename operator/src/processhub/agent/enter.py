"""Runs a command as a child would run it: with its environment and in its working directory.

``processhub-agent exec ID PID EPOCH ROLE -- CMD…`` is what ``kubectl hub exec`` runs in a member's container. An exec
child's environment is that of its process. Python children share the process of their runner, whose environment is
theirs but for the variables of a single child, which are added.
"""

from __future__ import annotations

import os
import sys

_CANNOT_RUN, _NOT_FOUND = 126, 127  # the exit codes of shells


def enter(arguments: list[str]) -> int:
    """Become the command; returns an exit code only if that is not possible."""
    child_id, pid, epoch, role, *rest = arguments
    command = rest[1:]
    try:
        environment = _environment(pid, child_id)
        os.chdir(f"/proc/{pid}/cwd")
    except (FileNotFoundError, ProcessLookupError):
        return _fail(f"child {child_id!r} has no process {pid} here any more; try again", 1)
    except PermissionError:
        return _fail(f"the environment of child {child_id!r} can't be read: it runs as another user", 1)
    own = {"HUB_CHILD_ID": child_id, "HUB_EPOCH": epoch, "HUB_ROLE": role}
    try:
        os.execvpe(command[0], command, {**own, **environment})  # noqa: S606 - the caller's own command
    except FileNotFoundError:
        return _fail(f"{command[0]}: there is no such program in the member's container", _NOT_FOUND)
    except OSError as error:
        return _fail(f"{command[0]}: {error.strerror}", _CANNOT_RUN)


def _environment(pid: str, child_id: str) -> dict[str, str]:
    """The environment of the process. Raises ProcessLookupError if it is not the child's any more, OSError."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        entries = [entry.partition(b"=") for entry in file.read().split(b"\0") if entry]
    environment = {os.fsdecode(name): os.fsdecode(value) for name, _, value in entries}
    if environment.get("HUB_CHILD_ID", child_id) != child_id or "HUB_NAME" not in environment:
        raise ProcessLookupError
    return environment


def _fail(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)  # noqa: T201 the caller's terminal
    return code
