"""Why a command can't be run, as sentences for the person who wrote it."""

from __future__ import annotations

import errno
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import msgspec

from processhub.agent.envfiles import read_value
from processhub.api.child import ChildEnvVar, Exec

_FIRST_LINE_MAX = 256  # bytes; the kernel reads no more of it


def workload_problem(workload: Exec) -> str:
    """The reason why the workload can't be started, as a sentence; "" if it can."""
    if not workload.command or not workload.command[0]:
        return "command is empty: name a program"
    texts = {f"command[{at}]": text for at, text in enumerate(workload.command)}
    texts |= {f"args[{at}]": text for at, text in enumerate(workload.args)}
    texts |= {f"env {item.name!r}": item.name + item.value for item in workload.env}
    texts["workingDir"] = workload.working_dir
    for where, text in texts.items():
        if "\0" in text:
            return f"{where} contains a NUL character, which Linux does not allow there"
    for item in workload.env:
        if not item.name or "=" in item.name:
            return f"env {item.name!r}: a variable's name must not be empty or contain '='"
    for field, name in (("stopSignal", workload.stop_signal), ("roleSignal", workload.role_signal)):
        if name and name not in signal.Signals.__members__:
            return f"{field} {name}: no such signal; use a name such as SIGTERM"
    return ""


def with_file_values(workload: Exec) -> Exec:
    """The workload with the texts of the files that its env names (``valueFrom.file``). Raises EnvFileError."""
    env = tuple(
        ChildEnvVar(name=variable.name, value=read_value(variable.name, variable.value_from.file))
        if variable.value_from
        else variable
        for variable in workload.env
    )
    return msgspec.structs.replace(workload, env=env)


def missing_interpreter(command: str, number: int, folder: str, env: Mapping[str, str]) -> str:
    """A clause that names the missing interpreter or loader, if exec failed though the file exists; else "".

    ``number`` is the errno; ``folder`` the new process's working directory, or "". ``env`` is its environment, in whose
    PATH the command is looked for.
    """
    program = str(Path(folder, command)) if "/" in command else command
    found = shutil.which(program, path=env.get("PATH")) if number == errno.ENOENT else None
    if found is None:
        return ""
    try:
        with Path(found).open("rb") as file:
            line = file.read(_FIRST_LINE_MAX).partition(b"\n")[0]
    except OSError:
        return ""
    if not line.startswith(b"#!"):
        return f"; {found} is there, but its loader is not: it was built for another C library (musl, glibc)"
    interpreter = line[2:].decode(errors="replace").strip(" \t")
    if interpreter.endswith("\r"):
        return f"; the first line of {found} ends with a carriage return: save the file with Unix line ends (LF)"
    return f"; {found} is there, but its interpreter {interpreter.split()[0] if interpreter else '(none)'} is not"
