"""The pages for people, asked through the ASGI interface."""

from __future__ import annotations

import httpx
import pytest

from kvnode.dapr import openapi, pages
from kvnode.dapr.http import NO_ROUTE


@pytest.fixture
async def client() -> httpx.AsyncClient:
    app = pages.make(openapi.document(), NO_ROUTE)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway")


async def test_the_page_takes_everything_from_the_gateway_itself(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    assert "http" not in page.replace("<!DOCTYPE html>", "").replace('lang="en"', "")
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js"):
        assert f"docs/{name}" in page
        answer = await client.get(f"/docs/{name}")
        assert answer.status_code == 200
        assert answer.content


async def test_the_document_describes_the_api(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.0")  # what the page's library can show
    assert set(document["paths"]["/v1.0/state/{store}/{key}"]) == {"parameters", "get", "delete", "post", "put"}


async def test_the_front_door_leads_to_the_page(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


@pytest.mark.parametrize("path", ["/nothing", "/docs/..%2f..%2fetc%2fpasswd", "/docs/swagger-ui.js.map", "/docs/"])
async def test_other_paths_are_answered_as_dapr_does(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code in (404, 307)
    if answer.status_code == 404:
        assert answer.json()["errorCode"] == "ERR_DIRECT_INVOKE"


def test_a_token_is_part_of_the_description() -> None:
    assert "security" not in openapi.document()
    document = openapi.document(has_token=True)
    assert document["security"] == [{"token": []}]
    assert "401" in document["paths"]["/v1.0/metadata"]["get"]["responses"]
    health = document["paths"]["/v1.0/healthz"]["get"]
    assert "401" not in health["responses"]
    assert health["security"] == []


def test_the_stores_that_are_served_are_part_of_the_description() -> None:
    [store] = openapi.document(["a", "b"])["paths"]["/v1.0/state/{store}"]["parameters"]
    assert store["schema"]["enum"] == ["a", "b"]
