"""The files of one local cluster, and the record by which any later run finds and stops it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - etcd's data is deleted with the cluster; memory makes it fast
_ROOM_NEEDED = 2 * 1024**3


class ClusterError(Exception):
    """The local cluster cannot be brought up or reached; the message says what to do."""


@dataclass(frozen=True)
class Record:
    """The record of a cluster, written before its first process starts: even an incomplete cluster can be stopped."""

    id: str
    data: str  # the control plane's folder, in memory if there is room


@dataclass(frozen=True)
class Layout:
    """The paths of the cluster whose state is under ``root``."""

    root: Path

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def bin(self) -> Path:
        """Links to the tools, for PATH."""
        return self.root / "bin"

    @property
    def kubelet_root(self) -> Path:
        """The process kubelet's folder: pods, logs and its control socket."""
        return self.root / "kubelet"

    @property
    def kubelet_log(self) -> Path:
        """The log file of the process kubelet itself."""
        return self.root / "kubelet.log"

    @property
    def record_file(self) -> Path:
        """The record of the cluster that is or was being run here."""
        return self.root / "cluster.json"

    def record(self) -> Record | None:
        """The record of the cluster here; None if there is none."""
        try:
            return Record(**json.loads(self.record_file.read_text()))
        except FileNotFoundError:
            return None

    def begin(self) -> Record:
        """Write a new record, on disk before this returns."""
        identity = uuid.uuid4().hex
        record = Record(id=identity, data=str(_data_folder(self.root, identity)))
        scratch = self.record_file.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(asdict(record)))
        scratch.replace(self.record_file)
        Path(record.data).mkdir(mode=0o700, parents=True, exist_ok=True)
        return record

    def forget(self, record: Record) -> None:
        """Remove the files of a cluster whose processes have ended, the record last."""
        shutil.rmtree(record.data, ignore_errors=True)
        shutil.rmtree(self.kubelet_root, ignore_errors=True)
        self.kubeconfig.unlink(missing_ok=True)
        self.record_file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make a second ``up`` or ``down`` on this cluster wait; the lock ends with the process."""
        self.root.mkdir(parents=True, exist_ok=True)
        # O_CLOEXEC (Python's default) keeps the daemons that `up` starts from inheriting the lock.
        with open(self.root / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def default_layout() -> Layout:
    """The checkout's own cluster: ``.local/`` unless LOCALCLUSTER_ROOT names another folder."""
    return Layout(Path(os.environ.get("LOCALCLUSTER_ROOT") or CHECKOUT / ".local").absolute())


def _data_folder(root: Path, identity: str) -> Path:
    try:
        roomy = shutil.disk_usage(_SHARED_MEMORY).free > _ROOM_NEEDED and os.access(_SHARED_MEMORY, os.W_OK)
    except OSError:
        roomy = False
    return _SHARED_MEMORY / f"processhub-{identity[:12]}" if roomy else root / "control-plane"
