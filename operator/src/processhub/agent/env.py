"""The agent's environment variables, which the operator sets in the member's pod. They are read once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from processhub.api.addresses import authority
from processhub.api.naming import id_hash

_REQUIRED = ("HUB_NAME", "HUB_NAMESPACE", "HUB_UID", "HUB_MEMBER", "POD_NAME", "POD_UID", "POD_IP", "NODE_NAME")
_OWN = (*_REQUIRED, "HUB_TOKEN_FILE", "TERMINATION_GRACE_SECONDS")  # not passed on to children
_OWN_PREFIX = "PROCESSHUB_"  # of the agent's further variables
_SOCKET_PATH_MAX = 99  # bytes; the longest path of a Unix socket that all systems allow
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
PORT = 8080  # unless PROCESSHUB_PORT names another


class EnvironmentProblem(Exception):  # noqa: N818 it is shown to the user as it is
    """A variable is missing or wrong. The message names it and says what sets it."""


@dataclass(frozen=True)
class Environment:
    """The identity and the settings of the member that this agent serves."""

    hub: str
    namespace: str
    hub_uid: str
    member: str
    pod: str
    pod_uid: str
    pod_ip: str
    node: str
    log_level: str = "INFO"
    port: int = PORT  # of the HTTP server
    run_dir: Path = Path("/run/processhub")
    token_file: str = "/var/run/secrets/processhub/token"  # noqa: S105 a path
    grace_seconds: float = math.inf  # seconds within which everything must have ended after a SIGTERM
    runner_python: str = ""  # the interpreter of Python children; empty: the agent's own
    python_path: str = ""  # modules mounted from members.python.configMap
    container: dict[str, str] = field(default_factory=dict)  # the container's variables without the agent's own

    @property
    def address(self) -> str:
        """The host and port at which this member accepts requests."""
        return authority(self.pod_ip, self.port)

    @property
    def url(self) -> str:
        """The URL at which children reach the hub. Any member would do; this one needs no DNS."""
        return f"http://{self.address}"

    def child_dir(self, child_id: str) -> Path:
        """The folder for the files of one exec child. Its path is short enough for a socket in it."""
        return self.run_dir / id_hash(child_id)


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read the environment of this member. Raises EnvironmentProblem."""
    missing = [name for name in _REQUIRED if not environ.get(name)]
    if missing:
        raise EnvironmentProblem(
            f"{', '.join(missing)} not set: the agent runs in member pods, where the operator sets them"
        )
    pod_uid = environ["POD_UID"]
    try:
        grace = float(environ.get("TERMINATION_GRACE_SECONDS") or math.inf)
    except ValueError:
        raise EnvironmentProblem("TERMINATION_GRACE_SECONDS must be a number of seconds") from None
    return Environment(
        hub=environ["HUB_NAME"],
        namespace=environ["HUB_NAMESPACE"],
        hub_uid=environ["HUB_UID"],
        member=environ["HUB_MEMBER"],
        pod=environ["POD_NAME"],
        pod_uid=pod_uid,
        pod_ip=environ["POD_IP"],
        node=environ["NODE_NAME"],
        log_level=_level(environ.get("PROCESSHUB_LOG_LEVEL", "")),
        port=_port(environ.get("PROCESSHUB_PORT", "")),
        run_dir=_run_dir(environ.get("PROCESSHUB_RUN_DIR", ""), pod_uid),
        token_file=environ.get("HUB_TOKEN_FILE") or Environment.token_file,
        grace_seconds=grace,
        runner_python=environ.get("PROCESSHUB_RUNNER_PYTHON", ""),
        python_path=environ.get("PROCESSHUB_PYTHON_PATH", ""),
        container=_container(environ),
    )


def _container(environ: Mapping[str, str]) -> dict[str, str]:
    """The container's variables without the agent's own, but with those of them that the hub's template names too."""
    passed_on = environ.get("PROCESSHUB_PASSED_ON", "").split(",")
    return {
        name: value
        for name, value in environ.items()
        if name in passed_on or not (name in _OWN or name.startswith(_OWN_PREFIX))
    }


def _level(text: str) -> str:
    """The level of the agent's own log. LOG_LEVEL is left to children: many programs and images have it."""
    level = text.upper() or "INFO"
    if level not in _LEVELS:
        raise EnvironmentProblem(f"PROCESSHUB_LOG_LEVEL={text!r} must be debug, info, warning or error")
    return level


def _port(text: str) -> int:
    if not text:
        return PORT
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise EnvironmentProblem(f"PROCESSHUB_PORT={text!r} must be a port's number")
    return int(text)


def _run_dir(chosen: str, pod_uid: str) -> Path:
    """A writable folder of this pod alone: on the local cluster several pods share one /run or /tmp."""
    own = id_hash(pod_uid)[:10]
    for base in (chosen, "/run/processhub", os.environ.get("TMPDIR", ""), "/tmp"):  # noqa: S108 0700 and checked below
        if not base:
            continue
        folder = Path(base) / own if base == "/run/processhub" or base == chosen else Path(base) / f"processhub-{own}"
        if len(os.fsencode(folder)) + len("/0123456789abcdef/socket") > _SOCKET_PATH_MAX:
            continue
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
                return folder
        except OSError:
            continue
    raise EnvironmentProblem("no writable folder for the children's files; set PROCESSHUB_RUN_DIR to a short path")
