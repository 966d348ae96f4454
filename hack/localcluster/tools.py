"""The binaries that the clusters need: found, taken from the cache, or built with Go from pinned modules.

Standard library only: ``make setup`` runs this before anything is installed.

A tool is looked for in this order:

1. the environment variable ``PROCESSHUB_TOOL_<NAME>`` (``PROCESSHUB_TOOL_KUBE_APISERVER=/path``);
2. PATH, where its version is the pinned one (another version of kubectl or helm would make runs differ);
3. the cache, ``$XDG_CACHE_HOME/processhub/tools/<module>-<hash of its pins>/``;
4. a build from ``hack/tools/<module>/go.mod`` and ``go.sum``.

TOOLS are the local cluster's, which everybody gets; NODE_TOOLS are what a kind cluster and its node image need
besides, built by ``make kind-up`` alone.

Two runs at once share one build (a lock per module); a binary appears in the cache by rename, so an
interrupted build leaves nothing half-made.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).resolve().parent.parent / "tools"
KUBERNETES_VERSION = "v1.34.4"
_STAMP = "k8s.io/component-base/version"
_KUBE_LDFLAGS = (
    f"-s -w -X {_STAMP}.gitVersion={KUBERNETES_VERSION} -X {_STAMP}.gitMajor=1 -X {_STAMP}.gitMinor=34"
    f" -X {_STAMP}.gitTreeState=clean -X {_STAMP}.gitCommit={'0' * 40}"
)

_NEVER = r"(?!)"  # for a tool of our own: nothing of its name on PATH is it


class ToolError(Exception):
    """A tool can neither be found nor built; the message says what to install."""


@dataclass(frozen=True)
class Tool:
    """One binary: the pinned module it is built from, and how a copy on PATH proves its version."""

    name: str
    module: str  # folder under hack/tools
    package: str  # main package inside the module graph
    version_args: tuple[str, ...]
    version: str  # pattern that the output of version_args must contain
    minutes: float  # of a cold build on 2 cores, for the progress line
    ldflags: str = "-s -w"
    sources: tuple[str, ...] = ()  # files of our own in the module's folder that the binary is made of


TOOLS: tuple[Tool, ...] = (
    Tool("kubectl", "kube", "k8s.io/kubernetes/cmd/kubectl", ("version", "--client"), r"v1\.34\.", 0.8, _KUBE_LDFLAGS),
    Tool(
        "kube-apiserver",
        "kube",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        ("--version",),
        r"v1\.34\.4\b",
        5.6,
        _KUBE_LDFLAGS,
    ),
    Tool(
        "kube-controller-manager",
        "kube",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        ("--version",),
        r"v1\.34\.4\b",
        2.7,
        _KUBE_LDFLAGS,
    ),
    Tool(
        "kube-scheduler",
        "kube",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        ("--version",),
        r"v1\.34\.4\b",
        0.3,
        _KUBE_LDFLAGS,
    ),
    Tool("etcd", "etcd", "go.etcd.io/etcd/server/v3", ("--version",), r"3\.6\.", 0.5),
    Tool("kwokctl", "kwok", "sigs.k8s.io/kwok/cmd/kwokctl", ("--version",), r"v?0\.7\.", 3.0),
    Tool("helm", "helm", "helm.sh/helm/v4/cmd/helm", ("version", "--short"), r"v4\.", 2.1),
)
NODE_TOOLS: tuple[Tool, ...] = (
    Tool("kind", "kind", "sigs.k8s.io/kind", ("version",), r"v0\.30\.", 0.3),
    Tool("pause", "kind", "processhub.dev/tools/kind/pause", ("--version",), _NEVER, 0.1, sources=("pause/main.go",)),
    Tool("kubelet", "kube", "k8s.io/kubernetes/cmd/kubelet", ("--version",), r"v1\.34\.4\b", 2.0, _KUBE_LDFLAGS),
    Tool("kubeadm", "kube", "k8s.io/kubernetes/cmd/kubeadm", ("version",), r"v1\.34\.4\b", 0.6, _KUBE_LDFLAGS),
    Tool("kube-proxy", "kube", "k8s.io/kubernetes/cmd/kube-proxy", ("--version",), r"v1\.34\.4\b", 0.6, _KUBE_LDFLAGS),
    Tool("coredns", "coredns", "github.com/coredns/coredns", ("-version",), r"CoreDNS-1\.12\.", 3.0),
)
FOR_PEOPLE = ("kubectl", "helm")
BY_NAME = {tool.name: tool for tool in (*TOOLS, *NODE_TOOLS)}


def cache_root() -> Path:
    """The user's cache folder for tools (XDG base directory)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "processhub" / "tools"


def pins_hash(tool: Tool) -> str:
    """Twelve hex digits over what decides the binary: its module's go.mod and go.sum, link flags, sources of our own.

    The tools of one module and one of TOOLS and NODE_TOOLS have one hash, so that they share a folder, and a tool
    that is added for kind's sake leaves what the local cluster has in the cache valid.
    """
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((PINS / tool.module / name).read_bytes())
    for mate in TOOLS if tool in TOOLS else NODE_TOOLS:
        if mate.module == tool.module:
            digest.update(f"{mate.package} {mate.ldflags}".encode())
            for source in mate.sources:
                digest.update((PINS / mate.module / source).read_bytes())
    return digest.hexdigest()[:12]


def cached_path(tool: Tool) -> Path:
    """Where the cache holds this tool, whether it is there yet or not."""
    return cache_root() / f"{tool.module}-{pins_hash(tool)}" / tool.name


def _given(tool: Tool) -> Path | None:
    """The tool from its environment variable or from PATH, where the version on PATH is the pinned one."""
    variable = "PROCESSHUB_TOOL_" + tool.name.upper().replace("-", "_")
    if value := os.environ.get(variable):
        if not os.access(value, os.X_OK):
            raise ToolError(f"{variable}={value} is not an executable file; give the path of {tool.name} or unset it")
        return Path(value)
    found = shutil.which(tool.name)
    if found is None:
        return None
    answer = subprocess.run([found, *tool.version_args], capture_output=True, text=True, timeout=30, check=False)
    # What is found may be the link that an earlier `--bin` made: to be followed, else it would be linked to itself.
    return Path(found).resolve() if re.search(tool.version, answer.stdout + answer.stderr) else None


def available(tool: Tool) -> Path | None:
    """The tool's path where no build is needed, else None."""
    return _given(tool) or _cached(tool)


def _cached(tool: Tool) -> Path | None:
    path = cached_path(tool)
    return path if path.exists() else None


def _build(tool: Tool, target: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise ToolError(
            f"{tool.name} is neither on PATH nor in the cache, and there is no Go to build it; "
            f"install Go 1.21 or later, or set PROCESSHUB_TOOL_{tool.name.upper().replace('-', '_')}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{tool.name}-", dir=target.parent) as scratch:
        output = Path(scratch) / tool.name
        command = [go, "build", "-mod=readonly", "-trimpath", "-ldflags", tool.ldflags, "-o", str(output), tool.package]
        result = subprocess.run(
            command,
            cwd=PINS / tool.module,
            env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            tail = "\n".join(result.stdout.splitlines()[-20:])
            raise ToolError(f"building {tool.name} from hack/tools/{tool.module} failed:\n{tail}")
        output.rename(target)


def _build_locked(tool: Tool) -> Path:
    target = cached_path(tool)
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(tool, target)
    return target


def ensure(names: Sequence[str] | None = None, *, own: bool = False) -> dict[str, Path]:
    """Every named tool (all of TOOLS where None) by name, built where it must be; progress goes to stderr.

    With ``own`` only binaries that were built from the pins count, static and the same everywhere: what goes into
    images. Raises ToolError where a tool can be neither found nor built.
    """
    wanted = [BY_NAME[name] for name in names] if names is not None else list(TOOLS)
    look = _cached if own else available
    paths = {tool.name: path for tool in wanted if (path := look(tool))}
    missing = [tool for tool in wanted if tool.name not in paths]
    if missing:
        minutes = sum(tool.minutes for tool in missing)
        print(
            f"Building {len(missing)} tools from pinned Go modules into {cache_root()}.\n"
            f"This happens once and takes about {max(1, round(minutes))} min on 2 cores with an empty Go cache: "
            "each is a thousand packages and more, the Kubernetes API server some 3,000.",
            file=sys.stderr,
        )
    for step, tool in enumerate(missing, 1):
        print(
            f"[{step}/{len(missing)}] {tool.name} (about {tool.minutes:g} min) …", end=" ", file=sys.stderr, flush=True
        )
        begun = time.monotonic()
        paths[tool.name] = _build_locked(tool)
        print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
    return paths


def _link(path: Path, link: Path) -> None:
    if path.resolve() == link.absolute():
        return  # a binary that somebody put there
    scratch = link.with_name(f".{link.name}.{os.getpid()}")
    scratch.symlink_to(path)
    scratch.replace(link)


def main() -> int:
    """``python -m localcluster.tools [NAME…]``: print the paths, building what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *BY_NAME], help="which tools (default: all)")
    parser.add_argument("--bin", type=Path, help="also link kubectl and helm into this folder")
    arguments = parser.parse_args()
    try:
        paths = ensure(arguments.names or None)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, path in paths.items():
        if arguments.bin and name in FOR_PEOPLE:
            arguments.bin.mkdir(parents=True, exist_ok=True)
            _link(path, arguments.bin / name)
        print(f"{name} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
