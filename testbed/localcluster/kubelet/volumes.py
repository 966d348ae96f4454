"""A pod's volumes as folders: configMap, secret, projected, downwardAPI, emptyDir and hostPath."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from localcluster.kubelet.environment import Json, Lookup, Place, field_value
from processhub.cluster.errors import NotFoundError

Files = dict[str, tuple[bytes, int]]  # relative path -> content, mode
TokenRequest = Callable[[str | None, int], Awaitable[str]]  # (audience, seconds) -> token


class VolumeError(Exception):
    """A volume cannot be made (yet); the message names what is missing."""


@dataclass
class Volumes:
    """The volumes of one pod, below ``root``."""

    root: Path
    place: Place
    lookup: Lookup
    request_token: TokenRequest
    _tokens: dict[tuple[str, str | None], tuple[str, float]] = field(default_factory=dict)

    async def make(self, pod: Json) -> dict[str, Path]:
        """Make or refresh all volumes; the folder (or file) of each by name. Raises VolumeError."""
        return {volume["name"]: await self._one(pod, volume) for volume in pod["spec"].get("volumes") or ()}

    async def _one(self, pod: Json, volume: Json) -> Path:
        name: str = volume["name"]
        folder = self.root / name
        if "hostPath" in volume:
            return _host_path(volume["hostPath"])
        folder.mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            folder.chmod(0o777)  # like a real kubelet's: any user of the pod may write
            return folder
        if "configMap" in volume:
            source = volume["configMap"]
            _write(folder, await self._keyed("configmaps", source, source.get("defaultMode", 0o644)))
        elif "secret" in volume:
            source = {**volume["secret"], "name": volume["secret"]["secretName"]}
            _write(folder, await self._keyed("secrets", source, source.get("defaultMode", 0o644)))
        elif "downwardAPI" in volume:
            _write(folder, self._downward(pod, volume["downwardAPI"]))
        elif "projected" in volume:
            _write(folder, await self._projected(pod, name, volume["projected"]))
        else:
            kinds = sorted(set(volume) - {"name"})
            raise VolumeError(f"volume {name}: the process kubelet has no {', '.join(kinds)} volumes")
        return folder

    async def _projected(self, pod: Json, name: str, projected: Json) -> Files:
        mode = projected.get("defaultMode", 0o644)
        files: Files = {}
        for source in projected.get("sources") or ():
            if token := source.get("serviceAccountToken"):
                files[token["path"]] = ((await self._token(name, token)).encode(), mode)
            elif chosen := source.get("configMap"):
                files |= await self._keyed("configmaps", chosen, mode)
            elif chosen := source.get("secret"):
                files |= await self._keyed("secrets", chosen, mode)
            elif chosen := source.get("downwardAPI"):
                files |= self._downward(pod, {"defaultMode": mode, **chosen})
        return files

    async def _token(self, volume: str, source: Json) -> str:
        audience, seconds = source.get("audience"), int(source.get("expirationSeconds") or 3600)
        key = (f"{volume}/{source['path']}", audience)
        token, renew_at = self._tokens.get(key, ("", 0.0))
        if time.time() >= renew_at:
            token = await self.request_token(audience, seconds)
            self._tokens[key] = (token, time.time() + 0.8 * seconds)
        return token

    async def _keyed(self, plural: str, source: Json, mode: int) -> Files:
        try:
            found = await self.lookup(plural, source["name"])
        except NotFoundError:
            if source.get("optional"):
                return {}
            raise VolumeError(f'{plural[:-1]} "{source["name"]}" not found') from None
        data = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
        for key, value in (found.get("data") or {}).items():
            data[key] = base64.b64decode(value) if plural == "secrets" else value.encode()
        if not source.get("items"):
            return {key: (value, mode) for key, value in data.items()}
        files: Files = {}
        for item in source["items"]:
            if item["key"] in data:
                files[item["path"]] = (data[item["key"]], item.get("mode", mode))
            elif not source.get("optional"):
                raise VolumeError(f"{plural[:-1]} {source['name']} has no key {item['key']}")
        return files

    def _downward(self, pod: Json, source: Json) -> Files:
        mode = source.get("defaultMode", 0o644)
        return {
            item["path"]: (field_value(pod, self.place, item["fieldRef"]["fieldPath"]).encode(), item.get("mode", mode))
            for item in source.get("items") or ()
            if "fieldRef" in item
        }


def is_read_only(volume: Json) -> bool:
    """Whether containers may only read the volume, as on a node: its content is that of another object."""
    return "emptyDir" not in volume and "hostPath" not in volume


def _host_path(source: Json) -> Path:
    path, kind = Path(source["path"]), source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch()
    if not path.exists():
        raise VolumeError(f"hostPath {path} does not exist")
    return path


def _write(folder: Path, files: Files) -> None:
    """Swap the folder's content in one step, by the ``..data`` link that Kubernetes uses."""
    data = folder / "..data"
    if data.exists() and _same(data, files):
        return
    fresh = folder / f"..{time.time_ns()}"
    for name, (content, mode) in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
    fresh.mkdir(exist_ok=True)
    old = data.resolve() if data.exists() else None
    scratch = folder / "..data_tmp"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(fresh.name)
    scratch.replace(data)
    tops = {name.split("/")[0] for name in files}
    for top in tops:
        if not os.path.lexists(folder / top):
            (folder / top).symlink_to(f"..data/{top}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _same(data: Path, files: Files) -> bool:
    present = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
    return present == set(files) and all((data / name).read_bytes() == content for name, (content, _) in files.items())
