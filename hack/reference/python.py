"""The pages on Python code, from signatures and docstrings as griffe reads them (without imports)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import griffe

from reference.markdown import NotDescribedError, code, link, prose, table, words

_WIDTH = 100  # of a signature's line
_OURS = ("Hub.attached", "Hub.close_requests")  # public only for other parts of the package


class Page:
    """A page made from classes and texts."""

    def __init__(self, package: Any, title: str, intro: str) -> None:
        self._package = package
        self._parts = [f"# {title}", intro]

    def heading(self, title: str, text: str) -> None:
        """A chapter."""
        self._parts += [f"## {title}", text]

    def module(self, path: str, title: str) -> None:
        """A chapter with a module's docstring."""
        self.heading(title, prose(_docstring(self._package[path])))

    def classes(self, *paths: str) -> None:
        """Classes, each with its attributes and public methods, by the names that users import them by."""
        for path in paths:
            item = self._package[path]
            self._parts += _class(item.final_target if item.is_alias else item, item.name)

    def errors(self, modules: Sequence[str]) -> None:
        """A table of the errors that these modules define."""
        rows = [
            (code(item.name), ", ".join(code(str(base)) for base in item.bases), _one_line(_docstring(item)))
            for module in modules
            for item in self._package[module].classes.values()
            if not item.is_alias and any(str(base) in ("Exception", "HubError", "RequestFailed") for base in item.bases)
        ]
        self._parts.append(table(("error", "is a", "means"), rows))

    def text(self) -> str:
        """The page."""
        return "\n\n".join(self._parts) + "\n"


def load() -> Any:
    """The package's modules, read but not run."""
    return griffe.load("processhub", docstring_parser=griffe.Parser.google, try_relative_path=False)


def _class(item: Any, name: str) -> list[str]:
    parts = [f"### {name}", f"`from {_importable(item, name)} import {name}`", prose(_docstring(item))]
    members = _members(item)
    attributes = [member for member in members if _is_shown(member) and _is_attribute(member)]
    if attributes:
        described = any(member.docstring for member in attributes)
        head = ("attribute", "type", "default", "description") if described else ("attribute", "type", "default")
        parts.append(table(head, [_attribute(member, described) for member in attributes]))
    methods = [
        member
        for member in members
        if _is_shown(member)
        and member.is_function
        and f"{name}.{member.name}" not in _OURS
        and not _docstring(member).startswith("See ``")  # described at the member that it refers to
    ]
    if len(methods) > 3:
        rows = [
            (link(code(method.name), f"{name}.{method.name}"), _first_sentence(_docstring(method)))
            for method in methods
        ]
        parts.append(table(("method", "description"), rows))
    for method in methods:
        parts += [f"#### {name}.{method.name}", f"```python\n{_signature(method)}\n```", *_sections(method)]
    return parts


def _members(item: Any) -> list[Any]:
    """The class's members, and the methods and properties that it has from a base of the package."""
    members = dict(item.members)
    for base in item.resolved_bases:
        for name, member in base.members.items():
            if member.is_function or "property" in member.labels:
                members.setdefault(name, member)
    return list(members.values())


def _importable(item: Any, name: str) -> str:
    """The module that users import the class from: the package itself, or a module that has it in ``__all__``."""
    package = item.package
    if name in (package.exports or ()):
        return "processhub"
    public = (package[path] for path in ("strategies", "client.errors"))
    return str(next((module.path for module in public if name in (module.exports or ())), item.module.path))


def _is_shown(member: Any) -> bool:
    return not member.is_alias and not member.name.startswith("_")


def _is_attribute(member: Any) -> bool:
    """Whether a member is public data or a property. Data that a constructor only stores has no type of its own."""
    return bool(member.is_attribute and (member.annotation is not None or member.docstring is not None))


def _attribute(member: Any, described: bool) -> tuple[str, ...]:
    text = _one_line(member.docstring.value) if member.docstring else ""
    # A value that a constructor sets is not a default for users to change.
    default = code(str(member.value)) if "class-attribute" in member.labels and member.value is not None else ""
    row = (code(member.name), code(str(member.annotation)) if member.annotation else "", default)
    return (*row, text) if described else row


def _signature(method: Any) -> str:
    lines = [f"@{decorator}" for decorator in ("classmethod", "staticmethod") if decorator in method.labels]
    word = "async def" if "async" in method.labels else "def"
    line = f"{word} {method.signature()}"
    if len(line) > _WIDTH:
        line = f"{word} {method.name}(\n" + "".join(f"    {text},\n" for text in _parameters(method))
        line += f") -> {method.returns}"
    return "\n".join([*lines, line])


def _parameters(method: Any) -> Iterator[str]:
    keyword_only = False
    for parameter in method.parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not keyword_only:
            keyword_only = True
            yield "*"
        default = f" = {parameter.default}" if parameter.default is not None else ""
        yield f"{parameter.name}: {parameter.annotation}{default}"


def _sections(method: Any) -> list[str]:
    parts: list[str] = []
    for section in method.docstring.parsed:
        kind = section.kind.value
        if kind == "text":
            parts.append(prose(section.value))
        elif kind == "parameters":
            parts.append(
                table(("argument", "description"), [(code(p.name), _one_line(p.description)) for p in section.value])
            )
        elif kind == "returns":
            parts += [f"Returns {_lower(_one_line(value.description))}" for value in section.value]
        elif kind == "raises":
            rows = [(_names(value.annotation), _one_line(value.description)) for value in section.value]
            parts.append(table(("raises", "when"), rows))
        else:
            raise NotDescribedError(f"{method.path}: a section {kind} is not known here; write it as text")
    return parts


def _names(annotation: Any) -> str:
    return ", ".join(code(name.strip()) for name in str(annotation).strip("()").split(","))


def _docstring(item: Any) -> str:
    if item.docstring:
        return str(item.docstring.value)
    raise NotDescribedError(f"{item.path} has no docstring")


def _one_line(text: str) -> str:
    return words(" ".join(text.split()))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _first_sentence(text: str) -> str:
    return _one_line(text.split("\n\n")[0])
