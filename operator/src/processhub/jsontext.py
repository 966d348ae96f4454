"""JSON of users' values: what JSON does not have is an error. Standard library only, because actors use it too."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


class NotJsonError(ValueError):
    """A value that does not fit JSON. The message says why, and what to use instead."""


def json_text(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """The value as compact JSON; ``default`` replaces an object that JSON does not know. Raises NotJsonError."""
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=default)
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise NotJsonError(f"its text has U+{code:04X}, half of a surrogate pair, which is no character") from None
    except (TypeError, ValueError, RecursionError) as error:
        if str(error).startswith("Out of range float"):
            raise NotJsonError("it has a number that is NaN or infinite; use null or a text instead") from None
        raise NotJsonError(str(error)) from None
    return text
