"""Connections that break when the other end is cut off, instead of waiting for it for ever."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any


def watched_socket(seconds: int, *, sent: bool = False) -> Callable[[tuple[Any, ...]], socket.socket]:
    """A socket factory of aiohttp: a connection on which nothing arrives for ``seconds`` is probed, and breaks.

    With ``sent`` it also breaks when the other end has not acknowledged for as long what was sent. That may be an end
    that takes nothing for a while, as a command does that does not read its input.
    """
    options = {"TCP_KEEPIDLE": seconds // 2, "TCP_KEEPINTVL": max(1, seconds // 4), "TCP_KEEPCNT": 2}
    if sent:
        options["TCP_USER_TIMEOUT"] = seconds * 1000

    def made(address: tuple[Any, ...]) -> socket.socket:
        found = socket.socket(*address[:3])
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if (option := getattr(socket, name, None)) is not None:  # not every system has them
                found.setsockopt(socket.IPPROTO_TCP, option, value)
        return found

    return made
