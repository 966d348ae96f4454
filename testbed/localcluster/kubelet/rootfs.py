"""A container's own mount tree: real bind mounts at the mountPaths, seen by this container alone.

The machine's files stay visible at their paths (there is no image). A mountPath that does not exist is made in the
volume that it lies in, as a node does; a volume that takes no writes, and the machine, are not touched: the nearest
existing folder is covered by an empty tmpfs into which that folder's entries are bound, and the missing part is made
there. Where the missing part hangs off ``/`` itself, a new root is built the same way and entered by chroot.
"""

# Importing pathlib would take longer than the rest of this program.
# ruff: noqa: PTH102, PTH103, PTH112, PTH114, PTH115, PTH116, PTH118, PTH120, PTH208, PTH211
from __future__ import annotations

import errno
import os

from localcluster.kubelet import syscalls

Mount = tuple[str, str, bool]  # source (a file or folder of the machine), target inside the container, read-only


def isolate(hostname: str) -> bool:
    """Give this process a separate mount tree; False if the machine does not allow it.

    Root does it directly; other users in a user namespace in which they are root.
    """
    uid, gid = os.getuid(), os.getgid()
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS)
    except OSError:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS)
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        except OSError:
            return False
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.sethostname(hostname)
    return True


def build(mounts: list[Mount], scratch: str, read_only: bool) -> str:
    """Make the mounts in the present mount tree, outer ones first; returns the root to chroot to.

    Args:
        mounts: what to bind; sources are resolved before anything covers them.
        scratch: an existing empty folder in which a new root may be built.
        read_only: whether all but the mounts, /dev and /proc can only be read.
    """
    held = {source: os.open(source, os.O_PATH) for source, _, _ in mounts}
    root = "/"
    if any(_missing_from_root(target) for _, target, _ in mounts):
        root = scratch
        _cover("/", root)
    made: list[str] = []
    volumes: list[str] = []
    try:
        for given, wanted, only_read in sorted(mounts, key=lambda mount: mount[1].count("/")):
            # Opened beforehand: a source below a covered folder would no longer be found by its path.
            source = f"/proc/self/fd/{held[given]}"
            target = _make_target(root, wanted, os.path.isdir(source), made, volumes)
            syscalls.mount(source, target, None, syscalls.MS_BIND | syscalls.MS_REC)
            made.append(target)
            if given != wanted:
                volumes.append(target)  # otherwise it is a folder of the machine in its own place
            if only_read:
                _remount_read_only(target)
    finally:
        for fd in held.values():
            os.close(fd)
    if read_only:
        _freeze(root, made)
    return root


def _freeze(root: str, volumes: list[str]) -> None:
    """Make every file system read-only, except for the volumes and those that a container has for itself."""
    spared = [*volumes, *(_join(root, own) for own in ("/dev", "/proc", "/sys"))]
    for target in _mount_points(root):
        if not any(target == own or target.startswith(own + "/") for own in spared):
            try:
                _remount_read_only(target)
            except OSError as error:
                # Covered by another mount, or locked by the machine in a user namespace.
                if error.errno not in (errno.ENOENT, errno.EINVAL, errno.EACCES, errno.EPERM):
                    raise


def _mount_points(root: str) -> list[str]:
    points = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            # Blanks are written as \\040; the other bytes of a name are as they are.
            point = os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1"))
            if root == "/" or point == root or point.startswith(root + "/"):
                points.append(point)
    return points


def _remount_read_only(target: str) -> None:
    keep = 0
    flags = os.statvfs(target).f_flag
    for flag in (os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC, os.ST_NOATIME, os.ST_NODIRATIME, os.ST_RELATIME):
        # A user namespace may not drop the flags that the file system is mounted with.
        keep |= flags & flag
    if flags & os.ST_RELATIME:
        keep = keep & ~os.ST_RELATIME | 1 << 21
    syscalls.mount("none", target, None, syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY | keep)


def _missing_from_root(path: str) -> bool:
    return not os.path.lexists("/" + path.lstrip("/").split("/")[0])


def _resolve(root: str, path: str) -> str:
    """The real path under ``root`` of a path inside it, links followed inside the root."""
    done = "/"
    todo = [part for part in path.split("/") if part not in ("", ".")]
    hops = 0
    while todo:
        part = todo.pop(0)
        if part == "..":
            done = os.path.dirname(done)
            continue
        here = os.path.join(done, part)
        full = _join(root, here)
        if os.path.islink(full) and (hops := hops + 1) < 40:
            link = os.readlink(full)
            if link.startswith("/"):
                done = "/"
            todo = [piece for piece in link.split("/") if piece not in ("", ".")] + todo
        else:
            done = here
    return _join(root, done)


def _join(root: str, path: str) -> str:
    return path if root == "/" else root + path


def _make_target(root: str, path: str, folder: bool, made: list[str], volumes: list[str]) -> str:
    target = _resolve(root, path)
    if os.path.lexists(target):
        return target
    existing = os.path.dirname(target)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    around = max((mount for mount in made if (existing + "/").startswith(mount.rstrip("/") + "/")), key=len, default="")
    if (around not in volumes or not _writable(existing)) and not _is_cover(existing):
        _cover(existing, existing)
    os.makedirs(target if folder else os.path.dirname(target), exist_ok=True)
    if not folder:
        with open(target, "w"):
            pass
    return target


def _writable(folder: str) -> bool:
    return not os.statvfs(folder).f_flag & os.ST_RDONLY and os.access(folder, os.W_OK)


_covers: set[str] = set()


def _is_cover(path: str) -> bool:
    """Whether ``path`` is already on a tmpfs of ours (bound entries below it have another device)."""
    device = os.stat(path).st_dev
    return any(
        (path == cover or path.startswith(cover.rstrip("/") + "/")) and os.stat(cover).st_dev == device
        for cover in _covers
    )


def _cover(folder: str, target: str) -> None:
    """Put a tmpfs on ``target`` with every entry of ``folder`` bound into it."""
    # The descriptor leads below the tmpfs even where it covers the folder itself.
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    below = f"/proc/self/fd/{fd}"
    try:
        names = os.listdir(below)
        syscalls.mount("tmpfs", target, "tmpfs", 0, f"mode={os.stat(folder).st_mode & 0o7777:o}")
        # Otherwise a bind of the folder that holds the new root would include the new root.
        syscalls.mount("none", target, None, syscalls.MS_UNBINDABLE)
        _covers.add(target)
        for name in names:
            _bind_entry(f"{below}/{name}", os.path.join(target, name))
    finally:
        os.close(fd)


def _bind_entry(source: str, place: str) -> None:
    try:
        if os.path.islink(source):
            os.symlink(os.readlink(source), place)
            return
        if os.path.isdir(source):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
        syscalls.mount(source, place, None, syscalls.MS_BIND | syscalls.MS_REC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):  # deleted in the meantime, or a mount that can't be bound
            raise
