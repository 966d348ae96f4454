"""Free ports for servers that begin to listen later."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from localcluster.layout import CHECKOUT

ASKING = """
from localcluster.ports import free_port
print(*(free_port() for _ in range(300)), flush=True)
input()
"""


def test_no_port_is_given_twice_while_nobody_listens_on_it_yet() -> None:
    """600 of 12,000: by chance alone some fifteen would be given twice."""
    with contextlib.ExitStack() as stack:
        askers = [stack.enter_context(asker()) for _ in range(2)]
        given = [port for each in askers if each.stdout for port in each.stdout.readline().split()]
        for each in askers:
            each.communicate("\n")

    assert len(given) == len(set(given)) == 600


def asker() -> subprocess.Popen[str]:
    """Start a process that prints its ports and keeps them until it reads a line."""
    command = [sys.executable, "-c", ASKING]
    environment = {"PYTHONPATH": str(CHECKOUT / "testbed")}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
