"""Loopback addresses for nodes and pods, from a /16 of 127/8 that no other kubelet on this machine uses."""

from __future__ import annotations

import socket
import zlib
from dataclasses import dataclass, field


@dataclass
class Block:
    """127.``second``.0.0/16: nodes have third byte 0, pods the rest."""

    second: int
    claim: socket.socket  # held open: it is what keeps others out, and the kernel drops it with this process
    _used: set[int] = field(default_factory=set)
    _next: int = 0

    def node(self, index: int) -> str:
        """The address of node ``index`` (0-based, below 250)."""
        return f"127.{self.second}.0.{index + 1}"

    def take(self) -> str:
        """A pod address. Freed ones are reused as late as possible, so that no client reaches a dead pod's successor.

        Raises RuntimeError if all 64,000 are in use.
        """
        total = 255 * 254
        for _ in range(total):
            number = self._next
            self._next = (self._next + 1) % total
            if number not in self._used:
                self._used.add(number)
                return f"127.{self.second}.{1 + number // 254}.{1 + number % 254}"
        raise RuntimeError("all pod addresses are in use")

    def free(self, address: str) -> None:
        """Return a pod address to the free ones."""
        _, _, third, fourth = (int(part) for part in address.split("."))
        self._used.discard((third - 1) * 254 + fourth - 1)


def claim_block(seed: str) -> Block:
    """A free block; the first tried depends on ``seed`` so that a cluster usually keeps its block over a restart.

    Raises RuntimeError if all are taken.
    """
    first = zlib.crc32(seed.encode())
    for offset in range(253):
        second = 2 + (first + offset) % 253  # 127.0 and 127.1 are everybody's
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0processhub-localcluster-127.{second}")
        except OSError:
            claim.close()
            continue
        return Block(second, claim)
    raise RuntimeError("all loopback blocks are taken by other process kubelets")
