"""Every row of the error table, and what a bulk call is told when its items end differently."""

from __future__ import annotations

from typing import Any

import pytest

import kvclient
from kvnode.dapr import errors
from kvnode.dapr.errors import Call, Kind, Outcome, StateError

TYPE = "type.googleapis.com/google.rpc."
INFO, RESOURCE, BAD, HELP = (TYPE + name for name in ("ErrorInfo", "ResourceInfo", "BadRequest", "Help"))

ROWS: list[tuple[StateError, int, str, str, str, list[str]]] = [
    (
        errors.not_configured("s", "app"),
        500,
        "ERR_STATE_STORE_NOT_CONFIGURED",
        "DAPR_STATE_NOT_CONFIGURED",
        "FAILED_PRECONDITION",
        [INFO],
    ),
    (
        errors.not_found("s", "app"),
        400,
        "ERR_STATE_STORE_NOT_FOUND",
        "DAPR_STATE_NOT_FOUND",
        "INVALID_ARGUMENT",
        [INFO],
    ),
    (
        errors.illegal_key("s", "a||b"),
        400,
        "ERR_MALFORMED_REQUEST",
        "DAPR_STATE_ILLEGAL_KEY",
        "INVALID_ARGUMENT",
        [INFO, RESOURCE, BAD],
    ),
    (
        errors.malformed("no"),
        400,
        "ERR_MALFORMED_REQUEST",
        "ERR_MALFORMED_REQUEST",
        "INVALID_ARGUMENT",
        [INFO],
    ),
    (
        errors.no_transactions("s", "over several keys"),
        500,
        "ERR_STATE_STORE_NOT_SUPPORTED",
        "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED",
        "UNIMPLEMENTED",
        [INFO, RESOURCE, HELP],
    ),
    (
        errors.too_many_operations("s", 129, 128),
        400,
        "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS",
        "DAPR_STATE_TOO_MANY_TRANSACTIONS",
        "INVALID_ARGUMENT",
        [INFO, RESOURCE],
    ),
    (
        errors.unknown_operation("incr"),
        400,
        "ERR_NOT_SUPPORTED_STATE_OPERATION",
        "ERR_NOT_SUPPORTED_STATE_OPERATION",
        "UNIMPLEMENTED",
        [INFO],
    ),
    (
        errors.no_query("s"),
        500,
        "ERR_STATE_STORE_NOT_SUPPORTED",
        "DAPR_STATE_QUERYING_NOT_SUPPORTED",
        "INTERNAL",
        [INFO, RESOURCE],
    ),
]


@pytest.mark.parametrize(("error", "status", "code", "reason", "grpc", "details"), ROWS)
def test_a_kind_has_its_row(
    error: StateError, status: int, code: str, reason: str, grpc: str, details: list[str]
) -> None:
    assert (error.row.status, error.code, error.reason, error.row.grpc) == (status, code, reason, grpc)
    assert [detail["@type"] for detail in error.details()] == details
    assert error.details()[0]["domain"] == "dapr.io"
    assert error.outcome == "not applied"
    assert error.row.is_rich == reason.startswith("DAPR_")


CAUSES: list[tuple[kvclient.KvError, Kind, Outcome]] = [
    (kvclient.EtagMismatch("c"), Kind.ETAG_MISMATCH, "not applied"),
    (kvclient.InvalidRequest("c"), Kind.MALFORMED, "not applied"),
    (kvclient.QuorumUnreachable("c"), Kind.UNAVAILABLE, "not applied"),
    (kvclient.NotConnected("c"), Kind.UNAVAILABLE, "not applied"),
    (kvclient.Overloaded("c"), Kind.UNAVAILABLE, "not applied"),
    (kvclient.DeadlineExceeded("c"), Kind.UNAVAILABLE, "not applied"),
    (kvclient.ClockSkew("c"), Kind.UNAVAILABLE, "not applied"),
    (kvclient.OutcomeUnknown("c"), Kind.UNKNOWN, "unknown"),
    (kvclient.KvError("c"), Kind.FAILED, "not applied"),
]


@pytest.mark.parametrize(("cause", "kind", "outcome"), CAUSES)
def test_every_error_of_the_client_has_a_kind(cause: kvclient.KvError, kind: Kind, outcome: Outcome) -> None:
    error = errors.failed(Call.SAVE, "s", "k", cause)
    assert (error.kind, error.outcome) == (kind, outcome)
    # Those two name the cluster's store and ids of operations; whoever calls Dapr knows neither.
    assert (error.detail == "c") != isinstance(cause, kvclient.EtagMismatch | kvclient.OutcomeUnknown)
    assert error.retry_after_s == (1 if isinstance(cause, kvclient.Overloaded) else 0)


def test_every_class_of_the_clients_error_tree_is_tried_above() -> None:
    tried = {type(cause) for cause, _, _ in CAUSES}
    assert set(kvclient.KvError.__subclasses__()) - {kvclient.ConfigError} <= tried


STATUSES = [(Kind.ETAG_MISMATCH, 409, "ABORTED"), (Kind.ETAG_INVALID, 400, "INVALID_ARGUMENT")]
STATUSES += [(Kind.UNAVAILABLE, 503, "UNAVAILABLE"), (Kind.UNKNOWN, 504, "DEADLINE_EXCEEDED")]
STATUSES += [(Kind.FAILED, 500, "INTERNAL")]


@pytest.mark.parametrize("call", Call)
@pytest.mark.parametrize(("kind", "status", "grpc"), STATUSES)
def test_a_call_names_its_own_failures(call: Call, kind: Kind, status: int, grpc: str) -> None:
    error = errors.of_kind(kind, call, "s", "k", "why")
    if call is Call.TRANSACTION and kind in (Kind.ETAG_MISMATCH, Kind.ETAG_INVALID):
        status, grpc = 500, "INTERNAL"
    assert (error.row.status, error.row.grpc, error.code, error.reason) == (status, grpc, call.value, call.value)
    assert not error.row.is_rich
    assert error.message.endswith("why")


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        (Kind.FAILED, Call.GET, "fail to get k from state store s: why"),
        (Kind.FAILED, Call.SAVE, "failed saving state in state store s: why"),
        (
            Kind.ETAG_MISMATCH,
            Call.SAVE,
            "failed saving state in state store s: possible etag mismatch. error from state store: why",
        ),
        (Kind.ETAG_INVALID, Call.SAVE, "failed saving state in state store s: invalid etag value: why"),
        (
            Kind.ETAG_MISMATCH,
            Call.DELETE,
            "failed deleting state with key k: possible etag mismatch. error from state store: why",
        ),
        (Kind.ETAG_INVALID, Call.DELETE, "failed deleting state with key k: invalid etag value: why"),
        (Kind.FAILED, Call.DELETE, "failed deleting state with key k: why"),
        (Kind.ETAG_MISMATCH, Call.TRANSACTION, "error while executing state transaction: why"),
    ],
)
def test_messages_are_those_of_dapr(kind: Kind, call: Call, message: str) -> None:
    assert errors.of_kind(kind, call, "s", "k", "why").message == message


def test_other_messages_are_those_of_dapr() -> None:
    assert errors.not_found("s").message == "state store s is not found"
    assert errors.not_configured("s").message == "state store s is not configured"
    assert errors.no_transactions("s", "x").message == "state store s doesn't support transactions x"
    assert errors.no_query("s").message == "state store does not support querying"
    assert errors.illegal_key("s", "a||b").message == "input key/keyPrefix 'a||b' can't contain '||'"
    wanted = "the transaction contains 9 operations, which is more than what the state store supports: 8"
    assert errors.too_many_operations("s", 9, 8).message == wanted


def test_details_say_what_they_are_about() -> None:
    info, resource, bad = errors.illegal_key("s", "a||b").details()
    assert info["metadata"] == {}
    assert (resource["resource_type"], resource["resource_name"]) == ("state", "s")
    assert [violation["field"] for violation in bad["field_violations"]] == ["a||b"]
    assert errors.not_found("s", "app").details()[0]["metadata"] == {"appID": "app"}
    facts = {"currentOpsTransaction": "9", "maxOpsPerTransaction": "8"}
    assert errors.too_many_operations("s", 9, 8).details()[0]["metadata"] == facts
    unknown = errors.failed(Call.SAVE, "s", "k", kvclient.OutcomeUnknown("why"))
    assert unknown.details()[0]["metadata"] == {"outcome": "unknown"}


# -- bulk calls


def item(kind: Kind, outcome: Outcome = "not applied") -> StateError:
    return errors.of_kind(kind, Call.SAVE, "s", "k", kind.name, outcome)


M, I, U, N, F = (  # noqa: E741
    item(Kind.ETAG_MISMATCH),
    item(Kind.ETAG_INVALID),
    item(Kind.UNKNOWN, "unknown"),
    item(Kind.UNAVAILABLE),
    item(Kind.FAILED),
)


@pytest.mark.parametrize(
    ("results", "status", "outcome"),
    [
        ([M, "etag"], 409, "partial"),
        ([M, F], 409, "not applied"),
        ([M, I], 400, "not applied"),  # every failure is an ETag error, and one is invalid
        ([M, I, F], 409, "not applied"),
        ([I, F], 400, "not applied"),
        ([U, N], 504, "unknown"),
        ([F, N], 500, "not applied"),
        ([N, N], 503, "not applied"),
        ([U, N, "etag"], 504, "partial"),
    ],
)
def test_one_error_speaks_for_a_bulk_call(results: list[Any], status: int, outcome: Outcome) -> None:
    keys = [f"k{number}" for number in range(len(results))]
    error = errors.joined(Call.SAVE, "s", keys, results)
    assert error is not None
    assert (error.row.status, error.outcome, error.code) == (status, outcome, "ERR_STATE_SAVE")
    assert [(item.key, item.error) for item in error.items] == [
        (key, result if isinstance(result, StateError) else None) for key, result in zip(keys, results, strict=True)
    ]
    for key, result in zip(keys, results, strict=True):
        assert (f"{key}: " in error.message) == isinstance(result, StateError)


def test_a_bulk_call_without_failures_has_no_error_and_one_of_a_single_item_is_that_items() -> None:
    assert errors.joined(Call.SAVE, "s", ["a", "b"], ["etag", "etag"]) is None
    assert errors.joined(Call.SAVE, "s", [], []) is None
    assert errors.joined(Call.SAVE, "s", ["a"], [M]) is M


def test_many_failures_are_counted_and_not_spelled_out() -> None:
    error = errors.joined(Call.SAVE, "s", [f"k{number}" for number in range(100)], [N] * 100)
    assert error is not None
    assert error.message.endswith("; and 92 more")
    assert len(error.items) == 100


def test_nobody_is_asked_to_repeat_a_bulk_call_of_which_a_part_is_done() -> None:
    full = errors.failed(Call.SAVE, "s", "k", kvclient.Overloaded("c"))
    lost = errors.failed(Call.SAVE, "s", "k", kvclient.OutcomeUnknown("c"))
    for results, wait_s in (([full, full], 1), ([full, "etag"], 0), ([full, lost], 0)):
        joined = errors.joined(Call.SAVE, "s", ["a", "b"], results)
        assert joined is not None
        assert joined.retry_after_s == wait_s
