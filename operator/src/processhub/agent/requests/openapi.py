"""The OpenAPI description of the routes that callers of a member use."""

from __future__ import annotations

from typing import Any

from processhub.api.requests import PASSED_HEADERS

Json = dict[str, Any]
_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}
_ID: Json = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": _TEXT,
    "description": "The child's id, percent-encoded.",
}
_PASSED = [
    {"name": name, "in": "header", "schema": _TEXT, "description": "Passed on to the child."} for name in PASSED_HEADERS
]
_PROBLEMS = {
    "400": "bad_request: the message says what to write instead.",
    "401": "The ServiceAccount token is missing or not valid.",
    "403": "The account needs the verb create on hubs/call.",
    "404": "not_found: the hub has no such child, and no onDemand that would start it.",
    "429": "busy: the child's queue, or the limit of children on demand, is full.",
    "502": "outcome_unknown: the child got the request, and there will be no answer.",
    "503": "no_owner, partitioned, unreachable or not_ready: the request was not run.",
    "504": "timeout: the child has not answered within requestSeconds.",
}


def document(version: str) -> Json:
    """The document, for ``GET /openapi.json``."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "ProcessHub: requests to children", "version": version},
        "security": [{"serviceAccount": []}],
        "paths": {
            "/v1/children": {"get": _children()},
            "/v1/children/{id}": {"parameters": [_ID], "get": _look_up("One child on record.", _schema("Child"))},
            "/v1/children/{id}/call": {"parameters": [_ID], "post": _call()},
            "/v1/children/{id}/cast": {"parameters": [_ID], "post": _cast()},
            "/v1/children/{id}/http/{path}": {
                "parameters": [_ID, {"name": "path", "in": "path", "required": True, "schema": _TEXT}],
                **{method: _stream(method) for method in ("get", "put", "post", "delete", "patch")},
            },
            "/v1/members": {"get": _look_up("The members of the hub.", _list_of("Member"))},
        },
        "components": {
            "securitySchemes": {
                "serviceAccount": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of a Kubernetes ServiceAccount for the audience processhub.",
                }
            },
            "schemas": {
                "Child": _object(id=_TEXT, tags={"type": "array", "items": _TEXT}, nodes=_list_of("Copy")),
                "Copy": _object(name=_TEXT, pod=_TEXT, role=_TEXT, state=_TEXT, pid=_NUMBER, epoch=_NUMBER),
                "Member": _object(name=_TEXT, pod=_TEXT, children=_NUMBER, running=_NUMBER),
                "Problem": _object(type=_TEXT, title=_TEXT, status=_NUMBER, code=_TEXT, detail=_TEXT),
            },
        },
    }


def _children() -> Json:
    query = [
        {"name": "tag", "in": "query", "schema": _TEXT, "description": "Only children with this tag."},
        {"name": "member", "in": "query", "schema": _TEXT, "description": "Only children with a copy on this member."},
    ]
    return {**_look_up("The children on record, sorted by id.", _list_of("Child")), "parameters": query}


def _call() -> Json:
    return {
        "summary": "Send a child a request, and answer what it answers.",
        "parameters": _PASSED,
        "requestBody": _body(),
        "responses": {"200": _content("The child's answer.", {}), **_problems(*_PROBLEMS)},
    }


def _cast() -> Json:
    to = {
        "name": "to",
        "in": "query",
        "schema": {"enum": ["one", "all"], "default": "one"},
        "description": "all: to every running copy of the child.",
    }
    return {
        "summary": "Send a child a message without an answer.",
        "parameters": [*_PASSED, to],
        "requestBody": _body(),
        "responses": {"202": {"description": "The message is in the child's queue."}, **_problems(*_PROBLEMS)},
    }


def _stream(method: str) -> Json:
    return {
        "summary": f"Pass {method.upper()} to the HTTP server of the child itself, past its queue.",
        "responses": {"default": {"description": "The answer of the child's server."}, **_problems(*_PROBLEMS)},
    }


def _look_up(summary: str, schema: Json) -> Json:
    answers = {"200": _content("What the registry has.", schema)}
    return {"summary": summary, "responses": {**answers, **_problems("400", "401", "403", "404", "503")}}


def _body() -> Json:
    return {"required": True, "content": {"application/json": {"schema": {}}}}


def _problems(*statuses: str) -> Json:
    content = {"application/problem+json": {"schema": _schema("Problem")}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


def _content(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties}


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(name: str) -> Json:
    return {"type": "array", "items": _schema(name)}
