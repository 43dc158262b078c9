"""``/openapi.json``: a service's route table and the contracts' records as an OpenAPI 3.1 document, and as Markdown.

A handler says by ``operation`` what it takes and gives; its docstring's first sentence is the summary. The document is
made of the routes that the application really has, so it cannot name one that is not there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from forebay.contracts import ErrorReply, Record

Json = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])

OPENAPI_PATH = "/openapi.json"
OPENAPI_VERSION = "3.1.0"
SCHEMAS = "#/components/schemas/{name}"
_ATTRIBUTE = "forebay_operation"


@dataclass(frozen=True)
class Operation:
    """What one route takes and gives. ``media`` is of an answer that is no record; ``statuses`` are further answers
    with the same body; ``query`` and ``headers`` are names with what they mean."""

    takes: type[Record] | None = None
    gives: type[Record] | None = None
    media: str = "application/json"
    is_admin: bool = False
    statuses: tuple[int, ...] = (200,)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


WAITING = {
    "after": "a revision: the answer waits until there is another",
    "wait_s": "seconds to wait at most",
}
"""The query of a long poll."""


def operation(**said: Any) -> Callable[[F], F]:
    """Decorates a handler with its `Operation`; ``said`` are its fields."""
    described = Operation(**said)

    def decorate(handler: F) -> F:
        setattr(handler, _ATTRIBUTE, described)
        return handler

    return decorate


def described(handler: object) -> Operation | None:
    """What ``operation`` said of a handler (a function or a bound method)."""
    found: Operation | None = getattr(handler, _ATTRIBUTE, None)
    return found


def document(app: web.Application, title: str, version: str) -> Json:
    """The OpenAPI document of all routes of ``app``."""
    paths: Json = {}
    kinds: dict[str, type[Record]] = {"ErrorReply": ErrorReply}
    for method, path, handler in sorted(_routes(app), key=lambda route: route[:2]):
        said = described(handler) or Operation()
        for kind in (said.takes, said.gives):
            if kind is not None:
                kinds[kind.__name__] = kind
        paths.setdefault(path, {})[method.lower()] = _operation(said, method, path, handler)
    return {
        "openapi": OPENAPI_VERSION,
        "info": {"title": title, "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": _schemas([kinds[name] for name in sorted(kinds)]),
            "securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}},
        },
    }


def _routes(app: web.Application) -> Iterator[tuple[str, str, object]]:
    for route in app.router.routes():
        if route.resource is not None and route.method != "HEAD":
            yield route.method, route.resource.canonical, route.handler


def _operation(said: Operation, method: str, path: str, handler: object) -> Json:
    content = {"schema": {"$ref": SCHEMAS.format(name=said.gives.__name__)}} if said.gives else {}
    fault = {"schema": {"$ref": SCHEMAS.format(name="ErrorReply")}}
    answers: Json = {
        str(status): {"description": "as asked", "content": {said.media: content}} for status in said.statuses
    }
    answers["default"] = {"description": "an error", "content": {"application/json": fault}}
    out: Json = {
        "operationId": getattr(handler, "__qualname__", "").strip("_").replace("._", "."),
        "summary": _summary(handler),
        "responses": answers,
    }
    if parameters := _parameters(said, path):
        out["parameters"] = parameters
    if said.takes is not None:
        ref = {"$ref": SCHEMAS.format(name=said.takes.__name__)}
        out["requestBody"] = {"required": True, "content": {"application/json": {"schema": ref}}}
    if said.is_admin:
        out["security"] = [{"admin": []}]
    return out


def _parameters(said: Operation, path: str) -> list[Json]:
    in_path = [part[1:-1] for part in path.split("/") if part.startswith("{") and part.endswith("}")]
    text = {"type": "string"}
    return [
        *({"name": name, "in": "path", "required": True, "schema": text} for name in in_path),
        *({"name": name, "in": "query", "description": what, "schema": text} for name, what in said.query.items()),
        *({"name": name, "in": "header", "description": what, "schema": text} for name, what in said.headers.items()),
    ]


def _summary(handler: object) -> str:
    lines = (inspect.getdoc(handler) or "").split("\n\n")[0].split("\n")
    return " ".join(line.strip() for line in lines).replace("``", "`")


def _schemas(kinds: list[type[Record]]) -> Json:
    _, components = msgspec.json.schema_components(kinds, ref_template=SCHEMAS)
    plain: Json = _portable(components)
    return dict(sorted(plain.items()))


def _portable(schema: Any) -> Any:
    r"""The schema with patterns that every dialect reads (Python's ``\Z`` is ``$``)."""
    if isinstance(schema, dict):
        return {
            key: value.replace(r"\Z", "$") if key == "pattern" and isinstance(value, str) else _portable(value)
            for key, value in schema.items()
        }
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema


# -- for people


def markdown(document: Json, *, records: Json) -> str:
    """A page: a line for each route of the document, a table for each of ``records`` (schemas by name)."""
    lines = [f"## {document['info']['title']}", ""]
    if document["paths"]:
        lines += ["| request | takes | gives | |", "|---|---|---|---|"]
    for path, methods in document["paths"].items():
        lines += [_row(method, path, said) for method, said in methods.items()]
    for name, schema in records.items():
        lines += [f"### {name}", "", _sentence(schema.get("description", "")), ""]
        needed, fields = schema.get("required", []), schema.get("properties", {})
        lines += ["| field | type | |", "|---|---|---|"]
        lines += [*(_field(key, value, key in needed) for key, value in fields.items()), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(method: str, path: str, said: Json) -> str:
    takes = said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    media, content = next(iter(said["responses"][min(said["responses"])]["content"].items()))
    gives = _type(content["schema"]) if content else media
    query = [p["name"] for p in said.get("parameters", []) if p["in"] == "query"]
    shown = path + (f"?{'&'.join(query)}" if query else "")
    admin = " (admin)" if "security" in said else ""
    return f"| `{method.upper()} {shown}` | {_type(takes) if takes else ''} | {gives} | {said['summary']}{admin} |"


def _field(name: str, schema: Json, is_needed: bool) -> str:
    bounds = ", ".join(f"{key} {schema[key]}" for key in ("minimum", "maximum", "pattern") if key in schema)
    default = "" if is_needed else f"default `{_plain(schema.get('default'))}`"
    return f"| `{name}` | {_type(schema)} | {'; '.join(filter(None, (default, _cell(bounds))))} |"


def _plain(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _type(schema: Json) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if isinstance(schema.get("items"), dict) else "list"
    kind = schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _sentence(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
