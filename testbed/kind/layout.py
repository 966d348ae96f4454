"""The files of the kind cluster: in the checkout, in the user's cache, and in /run while dockerd is ours."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from localcluster.layout import CHECKOUT

CLUSTER = "processhub"
CONTEXT = f"kind-{CLUSTER}"
KIND = Path(__file__).resolve().parent
LOCAL = CHECKOUT / ".local" / "kind"
KUBECONFIG = LOCAL / "kubeconfig"
# A folder that all workers share, and its path there: files that children write to it outlive their nodes.
SHARED = LOCAL / "shared"
SHARED_IN_NODE = "/srv/processhub-shared"
# The record of our daemon: for this machine, not for a checkout, and deleted by a reboot like the daemon.
RUN = Path("/run/processhub-kind")


class KindError(Exception):
    """The kind cluster can't be brought up or taken down; the message says what to do."""


def cache() -> Path:
    """The user's cache folder for node images (XDG base directory)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "processhub" / "kind"


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Make a second run of the same user wait, and print that it waits; the lock ends with the process."""
    cache().mkdir(parents=True, exist_ok=True)
    # O_CLOEXEC (Python's default) keeps dockerd from inheriting the lock.
    with open(cache() / f".{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another run to end ({lock.name})", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
