"""The program kubectl-hub, also called as ``kubectl hub``. Users see a sentence and an exit code, never a traceback."""

from __future__ import annotations

import io
import os
import sys

from processhub.cli.errors import FAILED, INTERRUPTED, USAGE, CliError, ReaderGoneError, explained


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 usage, 124 timed out, 130 interrupted."""
    _open_streams()
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except ReaderGoneError:
        # Otherwise Python reports the closed pipe when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        known = _missing_package(error) or explained(error)
        if known is None:
            if os.environ.get("PROCESSHUB_DEBUG"):
                raise
            _say(f"error: {type(error).__name__}: {error}; a bug in kubectl-hub (PROCESSHUB_DEBUG=1 shows where)")
            return FAILED
        if known.sentence:
            _say(f"error: {known.sentence}")
        return known.code


def _missing_package(error: Exception) -> CliError | None:
    """The failure where the package was installed without the extra that the command line needs."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not name or name == __package__.partition(".")[0]:
        return None
    return CliError(
        f"kubectl hub needs the Python package {name}; install ProcessHub with its extra cli: "
        "pip install './operator[cli]'"
    )


def _open_streams() -> None:
    """Open the standard streams that the caller has closed (``>&-``)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 open to the end


def _run(arguments: list[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that can't show all of an id
    from processhub.cli.app import app, command_line

    arguments, command = split_command(verb_first(arguments))
    command_line.words = command
    import typer

    from processhub.cli.shared import COMPLETION_VARIABLE

    if COMPLETION_VARIABLE in os.environ:
        from processhub.cli.completion import register_shells

        register_shells()
    named = {"prog_name": "kubectl hub", "complete_var": COMPLETION_VARIABLE}
    try:
        outcome = app(arguments or ["--help"], **named, standalone_mode=False)
    except typer.TyperException as error:
        from processhub.cli.usage import sentence

        verb = arguments[0] if arguments and not arguments[0].startswith("-") else ""
        raise CliError(sentence(error, verb), getattr(error, "exit_code", USAGE)) from error
    if outcome == INTERRUPTED:
        raise KeyboardInterrupt  # typer turns it into an exit code
    return outcome if isinstance(outcome, int) else 0


def split_command(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """Split off the words after ``start … --exec --`` or ``exec … --``: a command line, not read as options."""
    if "--" in arguments:
        cut = arguments.index("--")
        if "--exec" in arguments[:cut] or arguments[0] == "exec":
            return arguments[:cut], arguments[cut + 1 :]
    return arguments, None


def verb_first(arguments: list[str]) -> list[str]:
    """Move the options that are before the verb behind it: ``kubectl-hub -n prod -ojson list``."""
    from processhub.cli.shared import before_verbs

    with_value, flags = before_verbs()
    index = 0
    while index < len(arguments) and arguments[index].startswith("-"):
        name, equals, _ = arguments[index].partition("=")
        attached = name not in with_value and name[:2] in with_value
        if not attached and name not in with_value | flags:
            return arguments
        index += 1 if equals or attached or name in flags else 2
    return [*arguments[index : index + 1], *arguments[:index], *arguments[index + 1 :]] if index else arguments


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 the command line's messages
