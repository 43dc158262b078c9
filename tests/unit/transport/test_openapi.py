"""The OpenAPI document says what the routes and the records say."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from forebay.contracts import FreeRequest, Mount, MountRequest
from forebay.transport.openapi import WAITING, document, markdown, operation


class Routes:
    """Two routes, one of which says nothing of itself."""

    @operation(takes=MountRequest, gives=Mount, is_admin=True, statuses=(200, 201), query=WAITING)
    async def mount(self, request: web.Request) -> web.Response:
        """Mounts ``a`` source
        somewhere.

        And more.
        """
        raise NotImplementedError

    async def plain(self, request: web.Request) -> web.Response:
        """Silent."""
        raise NotImplementedError


def made() -> dict[str, Any]:
    app, routes = web.Application(), Routes()
    app.router.add_post("/v1/mounts/{mount_id}", routes.mount)
    app.router.add_get("/v1/plain", routes.plain)
    return document(app, "forebay-test", "1.2.3")


def references(value: object) -> set[str]:
    """All ``$ref`` in a document."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


def test_a_route_is_described_by_what_its_handler_says() -> None:
    said = made()["paths"]["/v1/mounts/{mount_id}"]["post"]

    assert said["summary"] == "Mounts `a` source somewhere."
    assert said["requestBody"]["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/MountRequest"
    assert set(said["responses"]) == {"200", "201", "default"}
    assert [(p["name"], p["in"]) for p in said["parameters"]] == [
        ("mount_id", "path"),
        ("after", "query"),
        ("wait_s", "query"),
    ]
    assert said["security"] == [{"admin": []}]


def test_a_get_route_is_told_once_and_its_head_twin_not() -> None:
    assert list(made()["paths"]["/v1/plain"]) == ["get"]


def test_every_reference_leads_to_a_schema() -> None:
    said = made()

    assert references(said) >= {"#/components/schemas/UfsOptions", "#/components/schemas/ErrorReply"}
    for reference in references(said):
        assert reference.removeprefix("#/components/schemas/") in said["components"]["schemas"]


def test_a_schema_has_the_record_s_bounds_in_a_dialect_that_browsers_read() -> None:
    schema = made()["components"]["schemas"]["Mount"]

    assert schema["properties"]["replicas"]["maximum"] == 16
    assert schema["properties"]["ufs_id"]["pattern"] == "^[0-9a-f]{32}$"
    assert schema["additionalProperties"] is False
    assert FreeRequest.__name__ not in made()["components"]["schemas"]


def test_the_page_has_a_row_for_each_route_and_each_field() -> None:
    said = made()

    page = markdown(said, records=said["components"]["schemas"])

    assert "| `POST /v1/mounts/{mount_id}?after&wait_s` | [MountRequest](#mountrequest) | [Mount](#mount) |" in page
    assert "| `replicas` | integer | default `1`; minimum 1, maximum 16 |" in page
