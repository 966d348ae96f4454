"""The hooks that clients register and cancel at run time. They are an annotation, because spec belongs to its users.

The annotation ``processhub.dev/hooks`` of a Hub has the registered hooks, and copies of the cancelled hooks of
spec.hooks. An edit of spec.hooks wins: a hook there takes the place of a registered one of its name, and one that
differs from the cancelled copy is called again.
"""

from __future__ import annotations

import msgspec

from processhub.api.hooks import Hook
from processhub.api.meta import ObjectMeta, Wire
from processhub.api.naming import ANNOTATION_HOOKS, id_hash
from processhub.api.wording import wrong_json


class RegisteredHooksError(ValueError):
    """The annotation has a wrong value. The message says what is expected."""


class RegisteredHooks(Wire, frozen=True, kw_only=True):
    """The value of the annotation."""

    registered: tuple[Hook, ...] = ()
    cancelled: tuple[Hook, ...] = ()

    def in_effect(self, spec_hooks: tuple[Hook, ...]) -> tuple[Hook, ...]:
        """The hooks of a Hub with these ``spec.hooks``: first those of the spec, then the registered ones."""
        kept = tuple(hook for hook in spec_hooks if hook not in self.cancelled)
        names = {hook.name for hook in kept}
        return (*kept, *(hook for hook in self.registered if hook.name not in names))


_decode = msgspec.json.Decoder(RegisteredHooks).decode


def parse_registered_hooks(metadata: ObjectMeta) -> RegisteredHooks:
    """Parse the annotation of a Hub. Raises RegisteredHooksError."""
    text = metadata.annotations.get(ANNOTATION_HOOKS)
    if not text:
        return RegisteredHooks()
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        why = wrong_json(error, text, RegisteredHooks)
        raise RegisteredHooksError(
            f"annotation {ANNOTATION_HOOKS} can't be read ({why}); it must be a JSON object with registered and "
            "cancelled, each a list of hooks as in spec.hooks"
        ) from error


def format_registered_hooks(hooks: RegisteredHooks) -> str | None:
    """The value of the annotation; None, which removes it, if there are no hooks in it."""
    if not hooks.registered and not hooks.cancelled:
        return None
    return msgspec.json.encode(hooks).decode()


def observed_mark(metadata: ObjectMeta) -> str:
    """What status.hooks.observed of a Hub is when the operator has applied this annotation; "" if there is none."""
    text = metadata.annotations.get(ANNOTATION_HOOKS)
    return id_hash(text) if text else ""
