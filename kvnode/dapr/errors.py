"""What a caller is told when an operation fails: one kind, and one table of what each protocol makes of it.

Decides: the kind of every failure, the words of its message, whether the operation may have been applied, and the row
of the table (HTTP status, `errorCode`, gRPC status, whether HTTP shows the details).  Leaves to others: putting that on
the wire (`answers`, `grpc`, `component`).

Codes, reasons and the beginnings of messages are those of Dapr's runtime 1.18, because its SDKs and its users' tests
compare them.  Two kinds are ours, because there nobody is told whether a failed write was applied: UNAVAILABLE (it was
not, try again) and UNKNOWN (nobody knows, read the key).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, Literal, NamedTuple, TypeVar

from kvclient import EtagMismatch, InvalidRequest, KvError, OutcomeUnknown, Overloaded

DOMAIN = "dapr.io"
RETRY_AFTER_S = 1
"""What a refused caller is asked to wait; a queue that was full a moment ago is rarely full a second later."""
KEY_SHOWN_MAX = 1024
"""Characters that a message repeats of a name before it is known to be a legal one; a legal key has no more."""
NAMED_MAX = 8
"""Failures of one bulk call that its message spells out; `StateError.items` has all of them."""
_FEATURES_URL = "https://docs.dapr.io/reference/components-reference/supported-state-stores/"
_TYPE = "type.googleapis.com/google.rpc."

Outcome = Literal["not applied", "unknown", "applied", "partial"]
Done = TypeVar("Done")


class Call(Enum):
    """What the caller wanted; the value is the `errorCode` of its plain failures."""

    GET = "ERR_STATE_GET"
    SAVE = "ERR_STATE_SAVE"
    DELETE = "ERR_STATE_DELETE"
    BULK_GET = "ERR_STATE_BULK_GET"
    BULK_DELETE = "ERR_STATE_BULK_DELETE"
    TRANSACTION = "ERR_STATE_TRANSACTION"
    LIST = "ERR_STATE_LIST"


class Kind(Enum):
    """Why it failed: a row of `TABLE`."""

    NOT_CONFIGURED = auto()
    NOT_FOUND = auto()
    ILLEGAL_KEY = auto()
    MALFORMED = auto()
    NOT_SUPPORTED_TRANSACTION = auto()
    TOO_MANY_OPERATIONS = auto()
    NOT_SUPPORTED_OPERATION = auto()
    QUERY = auto()
    ETAG_MISMATCH = auto()
    ETAG_INVALID = auto()
    UNAVAILABLE = auto()
    UNKNOWN = auto()
    FAILED = auto()
    FORBIDDEN = auto()


class Row(NamedTuple):
    """What the protocols make of a kind.  `code` and `reason` are empty where the call names them."""

    status: int
    grpc: str
    """The name of a gRPC status code."""
    code: str = ""
    reason: str = ""
    is_rich: bool = False
    """True: the HTTP answer has `details`."""


TABLE: Mapping[Kind, Row] = {
    Kind.NOT_CONFIGURED: Row(
        500, "FAILED_PRECONDITION", "ERR_STATE_STORE_NOT_CONFIGURED", "DAPR_STATE_NOT_CONFIGURED", True
    ),
    Kind.NOT_FOUND: Row(400, "INVALID_ARGUMENT", "ERR_STATE_STORE_NOT_FOUND", "DAPR_STATE_NOT_FOUND", True),
    Kind.ILLEGAL_KEY: Row(400, "INVALID_ARGUMENT", "ERR_MALFORMED_REQUEST", "DAPR_STATE_ILLEGAL_KEY", True),
    Kind.MALFORMED: Row(400, "INVALID_ARGUMENT", "ERR_MALFORMED_REQUEST"),
    Kind.NOT_SUPPORTED_TRANSACTION: Row(
        500, "UNIMPLEMENTED", "ERR_STATE_STORE_NOT_SUPPORTED", "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", True
    ),
    Kind.TOO_MANY_OPERATIONS: Row(
        400, "INVALID_ARGUMENT", "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", "DAPR_STATE_TOO_MANY_TRANSACTIONS", True
    ),
    Kind.NOT_SUPPORTED_OPERATION: Row(400, "UNIMPLEMENTED", "ERR_NOT_SUPPORTED_STATE_OPERATION"),
    Kind.QUERY: Row(500, "INTERNAL", "ERR_STATE_STORE_NOT_SUPPORTED", "DAPR_STATE_QUERYING_NOT_SUPPORTED", True),
    Kind.ETAG_MISMATCH: Row(409, "ABORTED"),
    Kind.ETAG_INVALID: Row(400, "INVALID_ARGUMENT"),
    Kind.UNAVAILABLE: Row(503, "UNAVAILABLE"),
    Kind.UNKNOWN: Row(504, "DEADLINE_EXCEEDED"),
    Kind.FAILED: Row(500, "INTERNAL"),
    Kind.FORBIDDEN: Row(403, "PERMISSION_DENIED", "ERR_SHUTDOWN_NOT_ALLOWED"),
}

_WORDS = {
    Kind.ETAG_MISMATCH: "possible etag mismatch. error from state store: ",
    Kind.ETAG_INVALID: "invalid etag value: ",
}
_GRAVEST = (
    Kind.ETAG_MISMATCH, Kind.ETAG_INVALID, Kind.UNKNOWN, Kind.FAILED, Kind.UNAVAILABLE, Kind.MALFORMED,
)  # fmt: skip
"""Which failure speaks for a bulk call: Dapr's ETags first; then what a repetition alone would not mend."""


class ItemOutcome(NamedTuple):
    """What became of one item of a bulk call."""

    key: str
    outcome: Outcome
    error: StateError | None


class StateError(Exception):
    """A failed operation.  `str(error)` is the whole message, `detail` the cause alone.

    `outcome` says whether it was applied; "partial": some items of a bulk call were (see `items`).
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        call: Call | None = None,
        store: str = "",
        detail: str = "",
        outcome: Outcome = "not applied",
        metadata: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        retry_after_s: int = 0,
        items: Sequence[ItemOutcome] = (),
    ) -> None:
        """`metadata` is that of ErrorInfo; `fields` are the violations of BadRequest, field -> description."""
        super().__init__(message)
        self.kind = kind
        self.call = call
        self.store = store
        self.detail = detail or message
        self.outcome: Outcome = outcome
        self.metadata = dict(metadata or {})
        self.fields = dict(fields or {})
        self.retry_after_s = retry_after_s
        self.items = tuple(items)

    @property
    def message(self) -> str:
        """The whole message."""
        return str(self)

    @property
    def row(self) -> Row:
        """What the protocols make of it.  A transaction's failed check is a plain failure, as in Dapr."""
        if self.call is Call.TRANSACTION and self.kind in (Kind.ETAG_MISMATCH, Kind.ETAG_INVALID):
            return TABLE[Kind.FAILED]
        return TABLE[self.kind]

    @property
    def code(self) -> str:
        """`errorCode` of HTTP."""
        return self.row.code or (self.call.value if self.call else "ERR_STATE")

    @property
    def reason(self) -> str:
        """`reason` of ErrorInfo."""
        return self.row.reason or self.code

    def details(self) -> list[dict[str, Any]]:
        """Return the rich details in the JSON form of protobuf: ErrorInfo, then what else the kind has."""
        info = {"@type": _TYPE + "ErrorInfo", "reason": self.reason, "domain": DOMAIN, "metadata": self.metadata}
        if self.kind in (Kind.UNAVAILABLE, Kind.UNKNOWN) or self.outcome == "partial":
            info["metadata"] = {**self.metadata, "outcome": self.outcome}
        details: list[dict[str, Any]] = [info]
        if self.kind in (Kind.NOT_CONFIGURED, Kind.NOT_FOUND) or not self.row.is_rich:
            return details
        resource = {"resource_type": "state", "resource_name": self.store, "owner": "", "description": ""}
        details.append({"@type": _TYPE + "ResourceInfo", **resource})
        if self.fields:
            violations = [{"field": field, "description": text} for field, text in self.fields.items()]
            details.append({"@type": _TYPE + "BadRequest", "field_violations": violations})
        if self.kind is Kind.NOT_SUPPORTED_TRANSACTION:
            link = {"description": "Which state stores have transactions", "url": _FEATURES_URL}
            details.append({"@type": _TYPE + "Help", "links": [link]})
        return details


# -- one maker for each kind


def not_configured(store: str, app_id: str = "") -> StateError:
    """No store is served at all."""
    store = store[:KEY_SHOWN_MAX]
    message = f"state store {store} is not configured"
    return StateError(Kind.NOT_CONFIGURED, message, store=store, metadata={"appID": app_id})


def not_found(store: str, app_id: str = "") -> StateError:
    """No store has this name."""
    store = store[:KEY_SHOWN_MAX]
    return StateError(Kind.NOT_FOUND, f"state store {store} is not found", store=store, metadata={"appID": app_id})


def illegal_key(store: str, key: str) -> StateError:
    """The key holds the separator that stands between prefixes and keys."""
    key = key[:KEY_SHOWN_MAX]
    text = f"input key/keyPrefix '{key}' can't contain '||'"
    return StateError(Kind.ILLEGAL_KEY, text, store=store, fields={key: text})


def malformed(message: str) -> StateError:
    """The request itself is wrong; nothing was done."""
    return StateError(Kind.MALFORMED, message)


def no_transactions(store: str, why: str) -> StateError:
    """The operations cannot be one transaction."""
    message = f"state store {store} doesn't support transactions"
    return StateError(Kind.NOT_SUPPORTED_TRANSACTION, f"{message} {why}", store=store, call=Call.TRANSACTION)


def too_many_operations(store: str, count: int, most: int) -> StateError:
    """A transaction has more operations than the store takes."""
    text = f"the transaction contains {count} operations, which is more than what the state store supports: {most}"
    facts = {"currentOpsTransaction": str(count), "maxOpsPerTransaction": str(most)}
    return StateError(Kind.TOO_MANY_OPERATIONS, text, store=store, call=Call.TRANSACTION, metadata=facts)


def unknown_operation(operation: str) -> StateError:
    """A transaction has an operation that is neither "upsert" nor "delete"."""
    text = f"operation type {operation:.80} not supported: say 'upsert' or 'delete'"
    return StateError(Kind.NOT_SUPPORTED_OPERATION, text, call=Call.TRANSACTION)


def no_query(store: str) -> StateError:
    """Nobody can query."""
    return StateError(Kind.QUERY, "state store does not support querying", store=store)


def not_connected(call: Call | None = None) -> StateError:
    """The process has begun to serve and has not reached its cluster."""
    text = "the gateway is not connected to its cluster yet"
    return StateError(Kind.UNAVAILABLE, text, call=call, retry_after_s=RETRY_AFTER_S)


def no_shutdown() -> StateError:
    """The gateway is not configured to be stopped by a request."""
    return StateError(
        Kind.FORBIDDEN, "requests may not stop this gateway: stop its process, or start it with --allow-shutdown"
    )


def failed(call: Call, store: str, key: str, error: KvError) -> StateError:
    """What the cluster answered, for the caller of `call`."""
    return of_kind(kind_of(error), call, store, key, _detail(key, error), error.outcome, isinstance(error, Overloaded))


def of_kind(
    kind: Kind,
    call: Call,
    store: str,
    key: str,
    detail: str,
    outcome: Outcome = "not applied",
    is_overloaded: bool = False,
) -> StateError:
    """A failure of `call` with the message that Dapr gives it."""
    wait_s = RETRY_AFTER_S if is_overloaded else 0
    message = _message(kind, call, store, key, detail)
    return StateError(kind, message, call=call, store=store, detail=detail, outcome=outcome, retry_after_s=wait_s)


def kind_of(error: KvError) -> Kind:
    """Return the kind of what the cluster answered."""
    if error.outcome == "unknown":
        return Kind.UNKNOWN
    if isinstance(error, EtagMismatch):
        return Kind.ETAG_MISMATCH
    if isinstance(error, InvalidRequest):
        return Kind.MALFORMED
    return Kind.UNAVAILABLE if error.retryable else Kind.FAILED


def joined(call: Call, store: str, keys: Sequence[str], results: Sequence[Done | StateError]) -> StateError | None:
    """Return the one error of a bulk call whose items ended as `results`, or None if all of them were applied."""
    failures = [(key, result) for key, result in zip(keys, results, strict=True) if isinstance(result, StateError)]
    if len(failures) == len(results) == 1:
        return failures[0][1]
    if not failures:
        return None
    kinds = {error.kind for _, error in failures}
    kind = next((kind for kind in _GRAVEST if kind in kinds), Kind.FAILED)
    if kinds == {Kind.ETAG_MISMATCH, Kind.ETAG_INVALID}:
        kind = Kind.ETAG_INVALID
    outcomes = {error.outcome for _, error in failures}
    is_untouched = len(failures) == len(results) and outcomes == {"not applied"}
    outcome: Outcome = "unknown" if "unknown" in outcomes else "not applied"
    named = "; ".join(f"{key:.80}: {error.detail}" for key, error in failures[:NAMED_MAX])
    more = f"; and {len(failures) - NAMED_MAX} more" if len(failures) > NAMED_MAX else ""
    return StateError(
        kind,
        _message(kind, call, store, failures[0][0], named + more),
        call=call,
        store=store,
        detail=named + more,
        outcome="partial" if len(failures) < len(results) else outcome,
        # Who is asked to come again repeats the whole call, which is for those to whom nothing has happened yet.
        retry_after_s=max(error.retry_after_s for _, error in failures) if is_untouched else 0,
        items=[
            ItemOutcome(key, result.outcome, result)
            if isinstance(result, StateError)
            else ItemOutcome(key, "applied", None)
            for key, result in zip(keys, results, strict=True)
        ],
    )


def _detail(key: str, error: KvError) -> str:
    """Return the cause in the words of the caller, who knows neither the prefix of the key nor ids of operations."""
    if isinstance(error, EtagMismatch):
        stands = "is absent" if error.current is None else f"has the ETag {error.current.etag}"
        return f"{key!r:.80} {stands}, which is not what this write requires: read it and decide again"
    if isinstance(error, OutcomeUnknown):
        why = f" ({error.__cause__})" if isinstance(error.__cause__, KvError) else ""
        return f"the write may or may not take effect{why}: read the key to see what stands there"
    return str(error)


def _message(kind: Kind, call: Call, store: str, key: str, detail: str) -> str:
    if kind is Kind.MALFORMED:
        return detail
    words = "" if call is Call.TRANSACTION else _WORDS.get(kind, "")
    beginnings = {
        Call.GET: f"fail to get {key} from state store {store}: ",
        Call.SAVE: f"failed saving state in state store {store}: ",
        Call.DELETE: f"failed deleting state with key {key}: ",
        Call.BULK_GET: f"failed to get several keys from state store {store}: ",
        Call.BULK_DELETE: f"failed deleting state in state store {store}: ",
        Call.TRANSACTION: "error while executing state transaction: ",
        Call.LIST: f"failed to list keys of state store {store}: ",
    }
    return beginnings[call] + words + detail
