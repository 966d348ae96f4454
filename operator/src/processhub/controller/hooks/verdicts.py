"""The answer of a Pre hook, and the child that results from it. The functions are pure.

An answer is a JSON object (from Python: a mapping). An empty answer allows. All fields are optional::

    {"allow": true, "reason": "why not", "metadata": {"k": "v"}, "tags": ["gold"], "env": {"NAME": "value"},
    "args": {"any": "JSON"}}

``metadata`` and ``args`` are merged over the child's, ``tags`` are added to its own, ``env`` is set for an exec child.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any

import msgspec

from processhub.api.child import ChildEnvVar, Exec, Workload
from processhub.api.meta import brief
from processhub.api.nulls import without_nulls
from processhub.api.wording import wrong_json
from processhub.controller.hooks.webhook import TEXT_BYTES, HookError
from processhub.controller.observe.admission import StartCandidate
from processhub.core.acceptance import refuse_size
from processhub.core.model.snapshot import DesiredChild, attributes_digest, frozen_metadata
from processhub.registry.workloads import encode_workload

MAX_TAGS, MAX_METADATA, MAX_ENV, MAX_KEY, MAX_VALUE = 32, 32, 256, 128, 1024  # the same limits as in the Child's schema
_NO_TYPE = re.compile(r"Encoding objects of type (\S+) is unsupported")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class HookVerdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The answer of one hook, or of several together."""

    allow: bool = True
    reason: str = ""
    metadata: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    env: dict[str, str] = {}
    args: dict[str, Any] = {}

    @property
    def changes(self) -> bool:
        """Whether the answer changes the child."""
        return bool(self.metadata or self.tags or self.env or self.args)

    def then(self, later: HookVerdict) -> HookVerdict:
        """Combine two answers. The later one wins."""
        return HookVerdict(
            metadata=self.metadata | later.metadata,
            tags=tuple(dict.fromkeys(self.tags + later.tags)),
            env=self.env | later.env,
            args=self.args | later.args,
        )


def parse_answer(body: bytes | Mapping[str, Any] | None) -> HookVerdict:
    """Parse the answer of a webhook (its body) or of a Python handler (its result). Raises HookError."""
    try:
        # The result of a function may contain anything, so it is converted to JSON and back.
        text = body.removeprefix(BOM_UTF8) if isinstance(body, bytes) else msgspec.json.encode(body)
        given = msgspec.json.decode(text) if text.strip() else None
        if given is None:
            return HookVerdict()
        answer = msgspec.convert(_without_nulls(given), HookVerdict)
    except msgspec.DecodeError as error:
        raise _unreadable(wrong_json(error, text, HookVerdict)) from error
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _unreadable(_not_encoded(error)) from error
    return msgspec.structs.replace(answer, reason=brief(answer.reason, TEXT_BYTES))


def _without_nulls(given: Any) -> Any:
    """The answer without its null fields, which many programs write for what is not set, but with ``allow``."""
    if not isinstance(given, dict) or given.get("allow", True) is None:
        return given
    return without_nulls(given, HookVerdict)


def _unreadable(why: str) -> HookError:
    return HookError(
        f"its answer can't be read: {why}; write a JSON object of allow, reason, metadata, tags, env and args"
    )


def _not_encoded(error: Exception) -> str:
    """Why the result of a Python handler is no JSON."""
    if found := _NO_TYPE.search(str(error)):
        return f"it has a value of type {found[1]}, which JSON does not have"
    if isinstance(error, UnicodeEncodeError):
        return "it has text with half of a surrogate pair, which is no character"
    if isinstance(error, TypeError):
        return "it has a key that is neither text nor a number"
    return "it is nested too deeply, or has a number that is too large"


def changed_child(candidate: StartCandidate, answer: HookVerdict) -> tuple[DesiredChild, str]:
    """Apply an answer; returns the child and its workload's JSON. Raises HookError if the child would not be valid."""
    if not answer.changes:
        return candidate.wanted, candidate.workload
    spec = candidate.spec
    tags = tuple(dict.fromkeys(spec.tags + answer.tags))
    metadata = {**spec.metadata, **answer.metadata}
    _check(tags, metadata, answer.env)
    workload = Workload(exec=spec.exec, python=spec.python, pod=spec.pod)
    if answer.env:
        workload = _with_env(workload, answer.env)
    if answer.args:
        if workload.python is None:
            raise HookError("its answer has args, but only python children have them; leave it out")
        merged = msgspec.structs.replace(workload.python, args={**workload.python.args, **answer.args})
        workload = Workload(python=merged)
    name, text = encode_workload(workload)
    if too_large := refuse_size(text):
        raise HookError(f"with its answer, {too_large.message}")
    asked = attributes_digest(candidate.wanted)
    pairs_of = frozen_metadata(metadata)
    return msgspec.structs.replace(candidate.wanted, workload=name, tags=tags, metadata=pairs_of, asked=asked), text


def _with_env(workload: Workload, env: dict[str, str]) -> Workload:
    changed = workload.exec or workload.python
    if changed is None:
        raise HookError("its answer has env, but a pod child has its variables in pod.template; leave it out")
    given = {variable.name: variable for variable in changed.env}
    merged = {**given, **{name: ChildEnvVar(name=name, value=value) for name, value in env.items()}}
    changed = msgspec.structs.replace(changed, env=tuple(merged.values()))
    return Workload(exec=changed) if isinstance(changed, Exec) else Workload(python=changed)


def _check(tags: tuple[str, ...], metadata: Mapping[str, str], env: Mapping[str, str]) -> None:
    problem = ""
    if len(tags) > MAX_TAGS or any(not 1 <= len(tag) <= MAX_KEY for tag in tags):
        problem = f"tags: at most {MAX_TAGS} of 1 to {MAX_KEY} characters"
    elif len(metadata) > MAX_METADATA or any(
        not 1 <= len(key) <= MAX_KEY or len(value) > MAX_VALUE for key, value in metadata.items()
    ):
        problem = f"metadata: at most {MAX_METADATA} keys of 1 to {MAX_KEY} characters, values up to {MAX_VALUE}"
    elif len(env) > MAX_ENV or any(not _ENV_NAME.match(name) or "\0" in value for name, value in env.items()):
        problem = f"env: at most {MAX_ENV} names of letters, digits and underscores"
    if problem:
        raise HookError(f"with its answer the child is not valid; {problem}")
