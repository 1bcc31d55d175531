"""One gRPC call, for the runtime's service and the component's: let in, read, run, answered or refused.

Decides: who is let in (token, bounds), how much of the caller's time the cluster may use, and that every refusal of
this program carries a `google.rpc.Status` with exactly one detail, in trailers that every client accepts.  Leaves to
others: which calls there are and what they mean (`grpc`, `component`), the words of errors (`errors`).

What gRPC itself refuses before a call gets here has no detail, and nothing was done: RESOURCE_EXHAUSTED for a message
that is too large and for more calls at once than anyone may make.  A connection that breaks is UNAVAILABLE without a
detail: then nobody knows.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from kvnode.dapr import errors
from kvnode.dapr.admission import Admission, Held, overloaded
from kvnode.dapr.errors import Call, Kind, StateError
from kvnode.dapr.protos import pool
from kvnode.dapr.settings import Bounds

log = logging.getLogger(__name__)

TEXT_BYTES_MAX = 1024
"""Bytes of a message, and of the list of failed items.  They travel percent-encoded and in base64, the message twice:
together less than the 8 KiB of trailers that clients accept."""
TOKEN_NAME = "dapr-api-token"
MARGIN_S_MAX = 0.05
"""Seconds of a caller's deadline that are kept for the way back, or a tenth of it if that is less: an answer with
details is worth more than the last of the time."""
ANSWER_BYTES_UNCOUNTED = 64 * 1024
"""Answers up to this size are not counted: a connection's buffers may hold as much anyway."""
RPCS_PER_REQUEST = 2
"""gRPC lets in so many times as many calls as this program works on: the others get a refusal with a reason."""

Trailers = tuple[tuple[str, str | bytes], ...]


class Fault(NamedTuple):
    """What a refused caller gets."""

    code: grpc.StatusCode
    message: str
    detail: Message
    retry_after_s: int = 0

    def trailers(self) -> Trailers:
        """Return the trailing metadata that carries the detail."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.add().Pack(self.detail)
        details: Trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        if self.retry_after_s:
            details += (("grpc-retry-pushback-ms", str(self.retry_after_s * 1000)),)
        return details


class Caller(NamedTuple):
    """What a call says beside its message."""

    timeout_s: float | None
    """Seconds that the cluster may take, or None if the caller does not say."""
    metadata: Mapping[str, str]
    """The first value of each name."""
    read: Held
    """What was read for its answer."""


Behaviour = Callable[[Any, Caller], Awaitable[Message]]


class Route(NamedTuple):
    """One call: what it does, and as what its failures are reported that the store does not know."""

    behaviour: Behaviour
    call: Call | None = None


FaultOf = Callable[[StateError], Fault]


class Service(grpc.GenericRpcHandler):
    """The calls of one service."""

    def __init__(
        self,
        name: str,
        routes: Mapping[str, Route],
        admission: Admission,
        fault_of: FaultOf,
        *,
        token: str = "",
        elsewhere: str = "",
    ) -> None:
        """`routes` by the name of the call; `elsewhere`: what those who call anything else of it are told."""
        self._prefix = f"/{name}/"
        methods = pool.methods_of(name)
        self._admission = admission
        self._fault_of = fault_of
        self._token = token.encode()
        self._elsewhere = elsewhere
        self._handlers = {
            self._prefix + call: self._handler(pool.request_class(methods[call]), route)
            for call, route in routes.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what handles a call; None: another service may."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is None and self._elsewhere and handler_call_details.method.startswith(self._prefix):
            call = handler_call_details.method.removeprefix(self._prefix)
            return grpc.stream_stream_rpc_method_handler(self._refusing(call))
        return handler

    def _handler(self, request_class: type[Message], route: Route) -> grpc.RpcMethodHandler[Any, Any]:
        async def run(raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            caller = _caller(context, self._admission)
            try:
                self._check_token(caller)
                if refusal := self._admission.refusal(len(raw)):
                    raise overloaded(refusal, route.call)
                self._admission.calls += 1
                self._admission.bytes_held += len(raw)
                try:
                    answer = (await route.behaviour(_parsed(request_class, raw), caller)).SerializeToString()
                    caller.read.let_go()
                    self._hold(len(answer), route, context)
                    return answer
                finally:
                    caller.read.let_go()
                    self._admission.calls -= 1
                    self._admission.bytes_held -= len(raw)
            except _Unauthenticated as error:
                fault = _unauthenticated(str(error))
            except StateError as error:
                error.call = error.call or route.call
                fault = self._fault_of(error)
            except Exception:
                log.exception("a gRPC call failed for a reason that was not foreseen")
                fault = self._fault_of(_unforeseen(route.call))
            return await context.abort(fault.code, fault.message, fault.trailers())

        return grpc.unary_unary_rpc_method_handler(run)

    def _hold(self, size: int, route: Route, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """Count a large answer until its reader has it; only reads have one.  Raises StateError: there is no room."""
        if size <= ANSWER_BYTES_UNCOUNTED:
            return
        if refusal := self._admission.lack(size):
            raise overloaded(refusal, route.call)
        self._admission.bytes_held += size
        context.add_done_callback(lambda _: self._let_go(size))  # type: ignore[arg-type]  # the stub names a class

    def _let_go(self, size: int) -> None:
        self._admission.bytes_held -= size

    def _refusing(self, call: str) -> Any:
        async def run(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            try:
                self._check_token(_caller(context, self._admission))
                info = error_info("UNIMPLEMENTED", {})
                fault = Fault(grpc.StatusCode.UNIMPLEMENTED, cut(f"{call:.200}: {self._elsewhere}"), info)
            except _Unauthenticated as error:
                fault = _unauthenticated(str(error))
            await context.abort(fault.code, fault.message, fault.trailers())

        return run

    def _check_token(self, caller: Caller) -> None:
        if self._token and not hmac.compare_digest(caller.metadata.get(TOKEN_NAME, "").encode(), self._token):
            raise _Unauthenticated("invalid api token")


class _Unauthenticated(Exception):
    """The caller did not send the token."""


def server_options(bounds: Bounds) -> list[tuple[str, Any]]:
    """Return gRPC's own settings: sizes, and that a second server on the same port is an error, not a share of it."""
    return [
        ("grpc.max_receive_message_length", bounds.body_bytes_max),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", bounds.header_bytes_max),
        ("grpc.absolute_max_metadata_size", bounds.header_bytes_max),
        ("grpc.max_concurrent_streams", bounds.requests_in_flight_max),
        ("grpc.server_handshake_timeout_ms", int(bounds.request_timeout_s * 1000)),
        ("grpc.so_reuseport", 0),
    ]


def server(services: Iterable[grpc.GenericRpcHandler], bounds: Bounds) -> grpc.aio.Server:
    """Return a server of these services that does not listen yet."""
    made = grpc.aio.server(
        options=server_options(bounds), maximum_concurrent_rpcs=RPCS_PER_REQUEST * bounds.requests_in_flight_max
    )
    made.add_generic_rpc_handlers(tuple(services))
    return made


def error_info(reason: str, metadata: Mapping[str, str]) -> error_details_pb2.ErrorInfo:
    """Return the detail that says why, for programs."""
    return error_details_pb2.ErrorInfo(reason=reason, domain=errors.DOMAIN, metadata=dict(metadata))


def facts_of(error: StateError) -> dict[str, str]:
    """Return the metadata of an error's ErrorInfo: always `outcome`, and of a bulk call what failed of it."""
    facts = {name: cut(text) for name, text in error.metadata.items()} | {"outcome": _word(error.outcome)}
    failures = [(number, _word(item.outcome)) for number, item in enumerate(error.items) if item.outcome != "applied"]
    if failures:
        facts["failures"] = str(len(failures))
        facts["failed"] = _failed(failures)
    return facts


def _word(outcome: str) -> str:
    return outcome.replace(" ", "-")


def _failed(failures: Iterable[tuple[int, str]]) -> str:
    """Return which items failed, as far as there is room: a JSON object, outcome -> their places in the request."""
    places: dict[str, list[int]] = {}
    room = TEXT_BYTES_MAX - len('{"not-applied":[],"unknown":[]}')
    for number, outcome in failures:
        room -= len(f"{number},")
        if room < 0:
            break
        places.setdefault(outcome, []).append(number)
    return json.dumps(places, separators=(",", ":"))


def cut(text: str) -> str:
    """Return a text that fits into trailers."""
    raw = text.encode(errors="replace")
    return text if len(raw) <= TEXT_BYTES_MAX else raw[: TEXT_BYTES_MAX - 3].decode(errors="ignore") + "…"


def _unauthenticated(message: str) -> Fault:
    return Fault(grpc.StatusCode.UNAUTHENTICATED, message, error_info("UNAUTHENTICATED", {}))


def _unforeseen(call: Call | None) -> StateError:
    text = "the gateway failed for a reason that it logged; read the key to learn whether the operation was applied"
    return StateError(Kind.FAILED, text, call=call, outcome="unknown")


def _parsed(request_class: type[Message], raw: bytes) -> Message:
    try:
        return request_class.FromString(raw)
    except DecodeError as error:
        raise errors.malformed(f"the message is not a {request_class.DESCRIPTOR.name}: {error}") from error


def _caller(context: grpc.aio.ServicerContext[Any, Any], admission: Admission) -> Caller:
    left_s: float | None = context.time_remaining()
    metadata: dict[str, str] = {}
    for name, value in context.invocation_metadata() or ():
        metadata.setdefault(name, value if isinstance(value, str) else value.decode("latin-1"))
    return Caller(None if left_s is None else _usable_s(left_s), metadata, Held(admission))


def _usable_s(left_s: float) -> float:
    return max(left_s - min(MARGIN_S_MAX, left_s / 10), 0.001)
