"""What services say of their own routes, and the documents made of it."""

from __future__ import annotations

import pytest

from docs.write import files, served
from forebay.transport.openapi import Json


@pytest.fixture(scope="module")
def documents() -> dict[str, Json]:
    """What one of each service serves at ``/openapi.json``."""
    return served()


def test_the_documents_in_docs_are_what_services_serve(documents: dict[str, Json]) -> None:
    for path, text in files(documents).items():
        assert path.read_text() == text, f"{path.name} is old; run `make docs`"


def test_every_route_says_what_it_does_and_what_it_gives(documents: dict[str, Json]) -> None:
    for name, document in documents.items():
        for path, methods in document["paths"].items():
            for method, said in methods.items():
                assert said["summary"], (name, method, path)
                first = said["responses"][min(said["responses"])]["content"]
                assert path == "/openapi.json" or first.get("application/json") != {}, (name, method, path)


def test_every_service_has_the_common_routes(documents: dict[str, Json]) -> None:
    common = {"/healthz", "/readyz", "/metrics", "/v1/status", "/openapi.json"}

    assert set(documents) == {"forebay-master", "forebay-worker", "forebay-fuse"}
    assert all(common <= set(document["paths"]) for document in documents.values())
