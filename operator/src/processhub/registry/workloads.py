"""The texts in a slice's ``workloads``. Each workload is stored once, under its hash."""

from __future__ import annotations

import msgspec
import xxhash

from processhub.api.child import Exec, PodWorkload, Python, Workload
from processhub.api.wording import wrong_json
from processhub.registry.grammar import EntryError

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Workload)


def encode_workload(workload: Workload) -> tuple[str, str]:
    """``(hash, canonical JSON)`` of a workload; equal workloads have equal texts."""
    bare = Workload(exec=workload.exec, python=workload.python, pod=workload.pod)
    text = _encoder.encode(bare)
    return xxhash.xxh3_64_hexdigest(text), text.decode()


def is_pod_workload(text: str) -> bool:
    """Whether the canonical JSON is a pod child's. The text is not decoded."""
    return text.startswith('{"pod":')


def decode_workload(text: str) -> Exec | Python | PodWorkload:
    """Decode a text of a slice's ``workloads``. Raises EntryError if it has no workload."""
    try:
        workload = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise EntryError(f"not a workload: {text[:200]!r}: {wrong_json(error, text, Workload)}") from error
    chosen = workload.exec or workload.python or workload.pod
    if chosen is None:
        raise EntryError(f"a workload without exec, python or pod: {text[:200]!r}")
    return chosen
