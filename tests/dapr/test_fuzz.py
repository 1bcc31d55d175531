"""Requests made from the gateway's own OpenAPI document, good and bad, before a real gateway of a real cluster: every
answer is one that the document names, and nothing in the log was unforeseen.

Bounded and the same in every run: the requests are derived from the document alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from gateways import STORES, Gateway, Http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import content_type_conformance, response_schema_conformance
from schemathesis.specs.openapi.checks import status_code_conformance

from kvnode.dapr import openapi

EXAMPLES = 25
"""Requests of each kind for each operation."""
SCHEMA = schemathesis.openapi.from_dict(openapi.document(STORES))
OPERATIONS = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())
}
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]

pytestmark = pytest.mark.usefixtures("nothing_unforeseen")


@pytest.fixture(scope="module")
def gateway(new_gateway: Any) -> Iterator[Gateway]:
    """A gateway of its own, because attributes that are added to its facts stay."""
    with new_gateway() as gateway:
        yield gateway


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_answer_is_one_that_the_document_names(gateway: Gateway, name: str, mode: GenerationMode) -> None:
    if mode is GenerationMode.NEGATIVE and not has_anything_to_get_wrong(OPERATIONS[name]):
        return

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def run(data: Any) -> None:
        case = data.draw(OPERATIONS[name].as_strategy(generation_mode=mode))
        response = case.call(base_url=gateway.url)
        case.validate_response(response, checks=CHECKS)
        assert response.status_code not in (503, 504), response.text  # nothing is overloaded or out of reach here
        if response.status_code >= 400 and "/state/" in name:
            assert response.headers["x-outcome"] in (["not-applied"], ["partial"]), response.headers

    run()


def has_anything_to_get_wrong(operation: Any) -> bool:
    return bool(operation.body or operation.path_parameters or operation.query or operation.headers)


def test_after_all_that_the_gateway_and_its_cluster_serve(gateway: Gateway, key: str) -> None:
    with Http(gateway) as http:
        for store in STORES:
            assert http.save({"key": key, "value": store}, store=store).status_code == 204
            assert http.read(key, store=store).json() == store
        assert http.get("/v1.0/healthz/outbound").status_code == 204
