"""What a wrong command line is answered with."""

from __future__ import annotations

import re

import typer

# Verbs of kubectl and of shells, and those that do it here.
_MEANT = {
    "get": "list",
    "ls": "list",
    "ps": "list",
    "create": "start",
    "run": "start",
    "apply": "start",
    "delete": "stop",
    "rm": "stop",
    "kill": "stop",
    "describe": "explain",
    "log": "logs",
    "wait": "await",
    "nodes": "members",
    "cordon": "drain",
    "uncordon": "undrain",
    "send": "cast",
    "find": "where",
}
# What typer passes on of the library that converts values.
_WORDS = (
    (re.compile(r"Input should be greater than or equal to (\S+)"), r"it must be at least \1"),
    (re.compile(r"Input should be less than or equal to (\S+)"), r"it must be at most \1"),
    (re.compile(r"Input should be a valid integer.*"), "it must be a whole number"),
    (re.compile(r"Input should be a valid number.*"), "it must be a number"),
    (re.compile(r"Value error, "), ""),
    (re.compile(r"\. Did you mean"), "; did you mean"),
)


def sentence(error: Exception, verb: str) -> str:
    """What is wrong with a command line that typer refuses, and where its help is."""
    from processhub.cli.app import app

    text = error.format_message() if hasattr(error, "format_message") else str(error)
    text = text.strip().rstrip(".")
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    text = f"{text[:1].lower()}{text[1:]}"
    known = verb in getattr(typer.main.get_command(app), "commands", {})
    if verb in _MEANT and not known:
        text = f"{text.partition('; did you mean')[0]}; did you mean '{_MEANT[verb]}'?"
    return f"{text}; see 'kubectl hub {verb + ' ' if known else ''}--help'"
