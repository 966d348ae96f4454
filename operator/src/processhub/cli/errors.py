"""The failures of a command, each as one sentence and an exit code."""

from __future__ import annotations

DONE, FAILED, USAGE, TIMED_OUT, INTERRUPTED = 0, 1, 2, 124, 130


class CliError(Exception):
    """A failure of a command: a sentence that names the object, the field and the remedy, and the exit code.

    The sentence is empty if the command has printed its errors already.
    """

    def __init__(self, sentence: str, code: int = FAILED) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code


class ReaderGoneError(Exception):
    """The reader of the output (``head``, ``less``) has closed the pipe."""


class UsageError(CliError):
    """The command line itself is wrong."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, USAGE)


def explained(error: BaseException) -> CliError | None:
    """The CliError for an error of the client or the API; None for any other, which is a bug."""
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
