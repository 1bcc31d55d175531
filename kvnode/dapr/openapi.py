"""The OpenAPI document of the HTTP API: what tools, people and the fuzzer in the tests read.

Decides: how the API is described.  What it does is in `http`; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvnode import __version__
from kvnode.dapr.state import PAGE_LIMIT, PAGE_LIMIT_MAX

Json = dict[str, Any]
_METADATA: Json = {"type": "object", "additionalProperties": {"type": "string"}}
_KEY: Json = {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": r"^[^|]+$"}

_SCHEMAS: Json = {
    "Error": {
        "type": "object",
        "required": ["errorCode", "message"],
        "properties": {
            "errorCode": {"type": "string", "example": "ERR_STATE_SAVE"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {"type": "object"}},
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/ItemOutcome"}},
        },
    },
    "ItemOutcome": {
        "description": "What became of one item of a bulk call.",
        "type": "object",
        "required": ["key", "outcome"],
        "properties": {
            "key": {"type": "string"},
            "outcome": {"type": "string", "enum": ["applied", "not-applied", "unknown"]},
            "errorCode": {"type": "string"},
            "message": {"type": "string"},
        },
    },
    "Options": {
        "type": "object",
        "properties": {
            "concurrency": {"type": "string", "enum": ["first-write", "last-write"]},
            "consistency": {"type": "string", "enum": ["eventual", "quorum", "strong"]},
        },
    },
    "SaveItem": {
        "type": "object",
        "required": ["key"],
        "properties": {
            "key": _KEY,
            "value": {"description": "Any JSON; it is stored as it is written."},
            "etag": {"type": "string", "nullable": True, "description": "Only over this version."},
            "metadata": {**_METADATA, "example": {"ttlInSeconds": "60"}},
            "options": {"$ref": "#/components/schemas/Options"},
        },
    },
    "Operation": {
        "type": "object",
        "required": ["operation", "request"],
        "properties": {
            "operation": {"type": "string", "enum": ["upsert", "delete"]},
            "request": {"$ref": "#/components/schemas/SaveItem"},
        },
    },
    "BulkItem": {
        "type": "object",
        "required": ["key"],
        "properties": {
            "key": {"type": "string"},
            "data": {},
            "etag": {"type": "string"},
            "metadata": _METADATA,
            "error": {"type": "string"},
        },
    },
}


def document(stores: Iterable[str] = (), *, has_token: bool = False) -> Json:
    """Return the document of a gateway for these stores, as OpenAPI 3.0, which every tool reads."""
    whole: Json = {
        "openapi": "3.0.3",
        "info": {
            "title": "kvnode: Dapr's state API",
            "version": __version__,
            "description": (
                "State of Dapr's runtime, HTTP, from a kvnode cluster. `consistency` and `concurrency` are kept exactly"
                " or refused. A failed write says in the header `x-outcome` whether it was applied: `not-applied`,"
                " `unknown` (read the key), `partial` (see `items`). Beside what is listed, what is not HTTP gets 400,"
                " a request whose line and headers are too large 431, one that comes too slowly 408, and one too many"
                " 503: none of them is begun."
            ),
        },
        "paths": _state_paths(list(stores)) | _other_paths(),
        "components": {"schemas": _SCHEMAS},
    }
    if has_token:
        scheme = {"type": "apiKey", "in": "header", "name": "dapr-api-token"}
        whole["components"]["securitySchemes"] = {"token": scheme}
        whole["security"] = [{"token": []}]
        refused = {"description": "The token is missing or wrong", "content": {"text/plain": {}}}
        for path, operations in whole["paths"].items():
            for operation in (operations[method] for method in operations.keys() & {"get", "put", "post", "delete"}):
                if path.startswith("/v1.0/healthz"):
                    operation["security"] = []
                else:
                    operation["responses"]["401"] = refused
    return whole


def _state_paths(stores: list[str]) -> Json:
    names: Json = {"enum": stores} if stores else {"minLength": 1}
    store, key = _in("path", "store", {"type": "string", **names}), _path_key()
    consistency = _in("query", "consistency", {"type": "string", "enum": ["eventual", "quorum", "strong"]})
    concurrency = _in("query", "concurrency", {"type": "string", "enum": ["first-write", "last-write"]})
    ttl = _in("query", "metadata.ttlInSeconds", {"type": "string", "pattern": "^(-1|[0-9]{1,9})?$"})
    if_match = _in("header", "If-Match", {"type": "string", "pattern": "^[!-~]*$"})
    save = _operation("Save one or more values", [ttl], {204: "Written"}, 400, 409, 500, 503, 504)
    save["requestBody"] = _body({"type": "array", "items": _ref("SaveItem")})
    save["responses"]["204"]["headers"] = _headers("ETag", "The version written, if it was one item")
    listing = _operation("List keys, eventually", _page_parameters(), {}, 400, 500, 503)
    listing["responses"]["200"] = _json_answer("A page of keys", _page())
    get = _operation("Get a value", [consistency], {204: "There is no such key"}, 400, 500, 503)
    get["responses"]["200"] = _value_answer()
    delete = _operation(
        "Delete a key", [consistency, concurrency, if_match], {204: "It is gone"}, 400, 409, 500, 503, 504
    )
    parameters = [consistency, concurrency, ttl, if_match]
    save_bytes = _operation("Save bytes, as they are", parameters, {204: "Written"}, 400, 404, 409, 500, 503, 504)
    save_bytes["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    save_bytes["responses"]["204"]["headers"] = _headers("ETag", "The version written")
    bulk = _operation("Get several values", [], {}, 400, 500, 503)
    bulk["requestBody"] = _body(_bulk_request())
    bulk["responses"]["200"] = _json_answer(
        "One item for each key, in their order", {"type": "array", "items": _ref("BulkItem")}
    )
    transact = _operation("Several operations on one key, all or nothing", [ttl], {204: "Done"}, 400, 500, 503, 504)
    operations = {"type": "array", "nullable": True, "items": _ref("Operation")}
    transact["requestBody"] = _body(
        {"type": "object", "properties": {"operations": operations, "metadata": {"type": "object", "nullable": True}}}
    )
    return {
        "/v1.0/state/{store}": {"parameters": [store], **_writes(save), "get": listing},
        "/v1.0/state/{store}/bulk": {"parameters": [store], **_writes(bulk)},
        "/v1.0/state/{store}/transaction": {"parameters": [store], **_writes(transact)},
        "/v1.0/state/{store}/{key}": {
            "parameters": [store, key],
            "get": get,
            "delete": delete,
            **_writes(save_bytes),
        },
    }


def _other_paths() -> Json:
    metadata = _operation("What this gateway is and serves", [], {}, 503)
    metadata["responses"]["200"] = _json_answer("Its facts", {"type": "object"})
    attribute = _operation("Add an attribute to the facts", [], {204: "Added"}, 400, 503)
    attribute["requestBody"] = {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}
    name = _in("path", "name", {"type": "string", "minLength": 1})
    return {
        "/v1.0/metadata": {"get": metadata},
        "/v1.0/metadata/{name}": {"parameters": [name], "put": attribute},
        "/v1.0/healthz": {"get": _operation("Is the gateway ready?", [], {204: "It is"}, 500)},
        "/v1.0/healthz/outbound": {
            "get": _operation("Has every partition of the cluster its quorum?", [], {204: "They have"}, 500)
        },
        "/v1.0/shutdown": {"post": _operation("Stop the gateway", [], {204: "It stops"}, 403, 503)},
    }


def _writes(operation: Json) -> Json:
    return {"post": operation, "put": operation}


def _operation(summary: str, parameters: list[Json], answers: dict[int, str], *failures: int) -> Json:
    responses: Json = {str(status): {"description": text} for status, text in answers.items()}
    responses |= {str(status): _error_answer(status) for status in failures}
    return {"summary": summary, "parameters": parameters, "responses": responses}


_FAILURES = {
    400: "The request is malformed, or the store unknown; nothing was done",
    403: "Requests may not do this",
    404: "No such route",
    409: "Another version stands there, or the key exists already; not applied",
    500: "Dapr's code for what this store cannot do, or a failure; see `x-outcome`",
    503: "Too few replicas, or too much to do; not applied, so try again",
    504: "It may have been applied: read the key",
}


def _error_answer(status: int) -> Json:
    answer = _json_answer(_FAILURES[status], _ref("Error"))
    answer["headers"] = _headers("x-outcome", "not-applied, unknown or partial")
    return answer


def _json_answer(text: str, schema: Json) -> Json:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _value_answer() -> Json:
    answer = {"description": "The value", "content": {"application/json": {}, "application/octet-stream": {}}}
    headers = _headers("ETag", "Its version") | _headers("metadata.ttlExpireTime", "When it expires, if it does")
    return {**answer, "headers": headers}


def _body(schema: Json) -> Json:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _in(where: str, name: str, schema: Json) -> Json:
    return {"in": where, "name": name, "schema": schema, **({"required": True} if where == "path" else {})}


def _path_key() -> Json:
    return _in("path", "key", _KEY)


def _headers(name: str, text: str) -> Json:
    return {name: {"description": text, "schema": {"type": "string"}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _page_parameters() -> list[Json]:
    limit = {"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT_MAX, "default": PAGE_LIMIT}
    return [
        _in("query", "prefix", {"type": "string"}),
        _in("query", "page_limit", limit),
        _in("query", "page_token", {"type": "string", "description": "`next_page_token` of the page before"}),
    ]


def _page() -> Json:
    return _object(("keys", {"type": "array", "items": {"type": "string"}}), ("next_page_token", {"type": "string"}))


def _bulk_request() -> Json:
    keys = {"type": "array", "items": _KEY}
    return {
        "type": "object",
        "properties": {"keys": keys, "parallelism": {"type": "integer"}, "metadata": _METADATA},
    }


def _object(*properties: tuple[str, Json]) -> Json:
    return {"type": "object", "required": _names(properties), "properties": dict(properties)}


def _names(properties: Iterable[tuple[str, Json]]) -> list[str]:
    return [name for name, _ in properties]
