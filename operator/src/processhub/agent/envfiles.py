"""The values of environment variables that come from files of the member's container (``valueFrom.file``).

Standard library only: the runner, which children's own Python runs, imports it.
"""

from __future__ import annotations

import errno
import os
import stat

_SIZE_MAX = 128 * 1024 - 1  # bytes; Linux takes no longer variable


class EnvFileError(Exception):
    """The file can't be read. The message names the variable and the file."""


def read_value(name: str, path: str) -> str:
    """The text of the file without line ends at its end, as the value of the variable. Raises EnvFileError."""
    try:
        content = _content(path)
    except OSError as error:
        number = errno.errorcode.get(error.errno or 0, "error")
        raise EnvFileError(f"env {name}: {path}: {error.strerror or error} ({number})") from error
    except ValueError as error:
        raise EnvFileError(f"env {name}: {path!r} is no path: {error}") from error
    if content is None:
        raise EnvFileError(f"env {name}: {path} is not a file")
    if len(content) > _SIZE_MAX:
        raise EnvFileError(f"env {name}: {path} has more than {_SIZE_MAX} bytes")
    try:
        value = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise EnvFileError(f"env {name}: {path} is not text in UTF-8") from None
    if "\0" in value:
        raise EnvFileError(f"env {name}: {path} contains a NUL character, which Linux does not allow there")
    return value


def _content(path: str) -> bytes | None:
    """What the file has, up to one byte more than is allowed. None for a folder, a pipe or a device."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is not waited for
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return None
        with open(number, "rb", closefd=False) as file:
            return file.read(_SIZE_MAX + 1)
    finally:
        os.close(number)
