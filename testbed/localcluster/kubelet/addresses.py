"""Loopback addresses for nodes and pods, from a block of 127/8 that no other kubelet on this machine uses.

IPv6 has only one loopback address. The addresses of pods that ask for IPv6 are added to the loopback device, which
needs root and the program ``ip``, and are removed with the pods.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import zlib
from dataclasses import dataclass, field

IP_FAMILY = "localcluster/ip-family"  # an annotation of a pod: IPv6 gives it an IPv6 address
_IPV6 = "fd00:7068:{:x}::{:x}"  # of a block and a pod; a unique local prefix (RFC 4193), in which 0x7068 is "ph"


@dataclass
class Block:
    """127.``second``.0.0/16, where nodes have third byte 0 and pods the rest, and an IPv6 prefix for pods."""

    second: int
    claim: socket.socket  # held open: this keeps others out, and the kernel drops it with this process
    _used: set[int] = field(default_factory=set)
    _next: int = 0
    _added: set[str] = field(default_factory=set)  # IPv6 addresses of the loopback device

    def node(self, index: int) -> str:
        """The address of node ``index`` (0-based, below 250)."""
        return f"127.{self.second}.0.{index + 1}"

    def take(self, *, ipv6: bool = False) -> str:
        """A pod address. Freed ones are reused as late as possible, so that no client reaches a dead pod's successor.

        Raises RuntimeError if all 64,000 are in use, or if this machine can't have IPv6 addresses.
        """
        total = 255 * 254
        for _ in range(total):
            number = self._next
            self._next = (self._next + 1) % total
            if number not in self._used:
                self._used.add(number)
                if ipv6:
                    address = _IPV6.format(self.second, 1 + number)
                    _loopback("replace", address)
                    self._added.add(address)
                    return address
                return f"127.{self.second}.{1 + number // 254}.{1 + number % 254}"
        raise RuntimeError("all pod addresses are in use")

    def free(self, address: str) -> None:
        """Return a pod address to the free ones."""
        if ":" in address:
            self._used.discard(int(address.rpartition(":")[2], 16) - 1)
            self._added.discard(address)
            _loopback("delete", address)
            return
        _, _, third, fourth = (int(part) for part in address.split("."))
        self._used.discard((third - 1) * 254 + fourth - 1)

    def close(self) -> None:
        """Remove the addresses that pods still have at the kubelet's end."""
        for address in tuple(self._added):
            self.free(address)


def claim_block(seed: str) -> Block:
    """A free block; the first tried depends on ``seed`` so that a cluster usually keeps its block over a restart.

    Raises RuntimeError if all are taken.
    """
    first = zlib.crc32(seed.encode())
    for offset in range(253):
        second = 2 + (first + offset) % 253  # 127.0 and 127.1 are used by everything else
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0processhub-localcluster-127.{second}")
        except OSError:
            claim.close()
            continue
        return Block(second, claim)
    raise RuntimeError("all loopback blocks are taken by other process kubelets")


def _loopback(verb: str, address: str) -> None:
    """Give the loopback device an IPv6 address, or remove it. Raises RuntimeError if that is not possible."""
    program = shutil.which("ip") or shutil.which("ip", path="/sbin:/usr/sbin")
    if program is None:
        raise RuntimeError("IPv6 addresses of pods need the program ip (package iproute2)")
    command = [program, "-6", "address", verb, f"{address}/128", "dev", "lo", *(["nodad"] if verb == "replace" else ())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"IPv6 addresses of pods need root: {' '.join(command)}: {done.stderr.strip()}")
