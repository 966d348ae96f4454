"""A page for each kind, from its CRD: columns, fields, and the rules that the API server checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from reference.markdown import NotDescribedError, code, link, table, words

Schema = dict[str, Any]
_HEAD = ("field", "type", "default", "allowed", "description")
# Fields of the spec or the status of these types get a section of their own, if they have fields.
_SECTIONS = ("object", "array")


class Kind:
    """One CRD. ``known`` maps schemas that another page shows, as JSON, to the links to them."""

    def __init__(self, crd: Schema, known: dict[str, str]) -> None:
        self._names = crd["spec"]["names"]
        self._version = crd["spec"]["versions"][0]
        self._group = crd["spec"]["group"]
        self._schema: Schema = self._version["schema"]["openAPIV3Schema"]
        self._known = known
        self.name: str = self._names["kind"]
        self.file = f"{self.name.lower()}.md"

    @property
    def description(self) -> str:
        """The description of the kind."""
        return words(self._schema["description"])

    def workloads(self) -> dict[str, str]:
        """The schemas that other pages link to: the fields of the spec that have fields themselves."""
        fields = self._schema["properties"]["spec"]["properties"]
        return {
            json.dumps(schema, sort_keys=True): link(f"{self.name} spec.{name}", f"spec.{name}", self.file)
            for name, schema in fields.items()
            if schema.get("properties")
        }

    def page(self) -> str:
        """The page of the kind."""
        fields = self._schema["properties"]
        parts = [f"# {self.name}", self.description, self._calling(), self._columns()]
        for top in ("spec", "status"):
            if top in fields:
                parts += self._section(top, fields[top])
        rules = [
            (code(path) if path else "", words(rule["message"]), code(rule["rule"]))
            for path, rule in self._rules("", self._schema)
        ]
        if rules:
            parts += [
                "## Rules",
                "In addition to types and bounds, the API server checks these rules ([CEL](https://kubernetes.io/docs/reference/"
                "using-api/cel/)). It rejects a manifest that breaks one with the message.",
                table(("field", "answer", "rule"), rules),
            ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _calling(self) -> str:
        names, sub = self._names, self._version.get("subresources", {})
        plural = names["plural"]
        short = "".join(f", `{name}`" for name in names.get("shortNames", ()) if name != names["singular"])
        lines = [
            f"- `apiVersion: {self._group}/{self._version['name']}`, `kind: {names['kind']}`, in a namespace.",
            f"- `kubectl get {plural}`, or `{names['singular']}`{short}; with the other kinds: `kubectl get "
            f"{names['categories'][0]}`.",
        ]
        if scale := sub.get("scale"):
            path = scale["specReplicasPath"].removeprefix(".")
            lines.append(
                f"- `kubectl scale {names['singular']}/NAME --replicas=N` sets `{path}`; an autoscaler may too."
            )
        if selectable := self._version.get("selectableFields"):
            fields = " and ".join(code(field["jsonPath"].removeprefix(".")) for field in selectable)
            lines.append(f"- `--field-selector` takes {fields}.")
        return "\n".join(lines)

    def _columns(self) -> str:
        rows = [
            (
                f"{column['name'].upper()}{' (`-o wide`)' if column.get('priority') else ''}",
                words(column["description"]),
                code(column["jsonPath"].removeprefix(".")),
            )
            for column in self._version["additionalPrinterColumns"]
        ]
        return f"## Columns of kubectl get\n\n{table(('column', 'shows', 'from'), rows)}"

    def _section(self, title: str, schema: Schema) -> list[str]:
        """A heading, the fields of this object, and the sections of those that have fields themselves."""
        parts = [f"## {title}", words(_described(schema, f"{self.name} {title}"))]
        rows, later = [], []
        required = schema.get("required", ())
        for name, field in schema["properties"].items():
            inner = _fields_of(field)
            if inner is not None and field["type"] in _SECTIONS:
                heading = f"{title}.{name}{'[]' if field['type'] == 'array' else ''}"
                rows.append(self._row(name, field, name in required, f" Fields: {link(heading, heading)}."))
                later.append((heading, field, inner))
            else:
                rows.append(self._row(name, field, name in required))
        parts.append(table(_HEAD, rows))
        for heading, field, inner in later:
            parts += [
                f"### {heading}",
                words(_described(field, heading)) if inner is field else words(_described(inner, heading)),
                table(_HEAD, self._rows("", inner)),
            ]
        return parts

    def _rows(self, prefix: str, schema: Schema) -> Iterator[tuple[str, ...]]:
        """The fields of an object and, with dotted names, of the objects in it."""
        for name, field in schema["properties"].items():
            path, required = prefix + name, name in schema.get("required", ())
            if there := self._known.get(json.dumps(field, sort_keys=True)):
                yield self._row(path, field, required, f" Fields: as {there}.")
                continue
            yield self._row(path, field, required)
            inner = _fields_of(field)
            if inner is not None:
                yield from self._rows(f"{path}{'[]' if field['type'] == 'array' else ''}.", inner)

    def _row(self, path: str, field: Schema, required: bool, more: str = "") -> tuple[str, ...]:
        default = field.get("default")
        shown = "required" if required else "" if default is None or default in ({}, []) else code(json.dumps(default))
        described = words(_described(field, f"{self.name} …{path}"))
        return code(path), _type(field), shown.replace('`""`', "empty"), _allowed(field), f"{described}{more}"

    def _rules(self, path: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
        if path and json.dumps(schema, sort_keys=True) in self._known:
            return
        for rule in schema.get("x-kubernetes-validations", ()):
            yield path, rule
        for name, field in schema.get("properties", {}).items():
            yield from self._rules(f"{path}.{name}" if path else name, field)
        if "items" in schema:
            yield from self._rules(f"{path}[]", schema["items"])


def _described(schema: Schema, where: str) -> str:
    if text := schema.get("description"):
        return str(text)
    raise NotDescribedError(f"{where} has no description; write one in crds/")


def _fields_of(schema: Schema) -> Schema | None:
    """The schema itself, or that of its items, if it has fields."""
    inner = schema.get("items", schema)
    return inner if inner.get("properties") else None


def _type(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    kind = schema["type"]
    if kind == "array":
        keys = schema.get("x-kubernetes-list-map-keys")
        return f"list of {_type(schema['items'])}s{' by ' + ', '.join(map(code, keys)) if keys else ''}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}s"
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return "any object"
    return "time (RFC 3339)" if schema.get("format") == "date-time" else str(kind)


def _allowed(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(code(value) if value else "empty" for value in schema["enum"])
    said = []
    if schema.get("type") == "integer" or schema.get("x-kubernetes-int-or-string"):
        said += _range(schema.get("minimum"), schema.get("maximum"), "")
    if schema.get("type") == "string" and schema.get("format") != "date-time":
        said += _range(schema.get("minLength"), schema.get("maxLength"), " characters")
        if pattern := schema.get("pattern"):
            said.append(code(pattern))
    if schema.get("type") == "array":
        said += _range(None, schema.get("maxItems"), " items")
    if "additionalProperties" in schema:
        said += _range(None, schema.get("maxProperties"), " entries")
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if inner and (each := _allowed(inner)):
            said.append(f"each {each}")
    return "; ".join(said)


def _range(least: int | None, most: int | None, unit: str) -> list[str]:
    if least is not None and most is not None:
        return [f"{least} to {most}{unit}"]
    if most is not None:
        return [f"at most {most}{unit}"]
    return [f"at least {least}{unit}"] if least is not None else []
