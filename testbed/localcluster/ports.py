"""Free ports of this machine for servers that are started later, in other processes."""

from __future__ import annotations

import random
import socket

_PORTS = (20000, 32000)  # below those that the kernel gives to outgoing connections
_claims: list[socket.socket] = []  # held open: they keep others out, and the kernel drops them with this process


def free_port() -> int:
    """A free port of 127.0.0.1 that nobody else gets from this function while this process lives.

    Test processes start their clusters at the same time, and a server listens some seconds after its port was chosen.
    """
    while True:
        port = random.SystemRandom().randrange(*_PORTS)
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0processhub-localcluster-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
