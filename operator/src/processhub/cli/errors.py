"""Every way a command can fail, as one sentence and an exit code."""

from __future__ import annotations

DONE, FAILED, USAGE, TIMED_OUT, INTERRUPTED = 0, 1, 2, 124, 130


class CliError(Exception):
    """What the user gets: one sentence (object, field, remedy) and the exit code; an empty sentence was said before."""

    def __init__(self, sentence: str, code: int = FAILED) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code


class ReaderGoneError(Exception):
    """Whoever reads the output (head, less) has had enough."""


class UsageError(CliError):
    """The command line itself is wrong."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, USAGE)


def explained(error: BaseException) -> CliError | None:
    """The sentence and code for an error of the client or the API; None for one that is a fault of the program."""
    if isinstance(error, CliError):
        return error
    from processhub.client.errors import HubError, InvalidChild, NoChildren, Timeout
    from processhub.cluster.config import ConfigError
    from processhub.cluster.errors import ApiError

    if isinstance(error, Timeout):
        return CliError(str(error), TIMED_OUT)
    if isinstance(error, NoChildren | InvalidChild):
        return CliError(str(error), USAGE)
    if isinstance(error, HubError | ConfigError):
        return CliError(str(error))
    if isinstance(error, ApiError):
        return CliError(error.message)
    return None
