"""Dapr's runtime over gRPC, as far as state goes: the service `dapr.proto.runtime.v1.Dapr`.

Decides: which calls are served, and which status and detail a failure becomes.  Leaves to others: what the operations
mean (`state`), the fields of their messages (`messages`), how a call is let in and refused (`rpc`).

A refusal has the status of the table in `errors` and one detail, ErrorInfo, whose metadata has `outcome`:
"not-applied", "unknown", or of a bulk call "partial" (then `failed` names the items).  UNAVAILABLE: not applied, try
again.  DEADLINE_EXCEEDED: unknown, read the key.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from kvnode.dapr import errors, messages, options, rpc
from kvnode.dapr.about import DAPR_VERSION, About
from kvnode.dapr.admission import Admission
from kvnode.dapr.errors import Call, StateError
from kvnode.dapr.listening import AddressError, check
from kvnode.dapr.options import Operation
from kvnode.dapr.protos import runtime_pb2
from kvnode.dapr.rpc import Caller, Fault, Route, Service, cut, error_info, facts_of
from kvnode.dapr.settings import GatewaySettings
from kvnode.dapr.state import States, StateStore

SERVICE = "dapr.proto.runtime.v1.Dapr"
DRAIN_TIMEOUT_S = 10.0
"""How long calls under way may take to end; then they are cut off, and their callers know nothing."""
ELSEWHERE = "this gateway serves Dapr's state store only; other building blocks need a Dapr sidecar"


def fault_of(error: StateError) -> Fault:
    """Return what a caller of the runtime's service is told."""
    info = error_info(error.reason, facts_of(error))
    return Fault(grpc.StatusCode[error.row.grpc], cut(error.message), info, error.retry_after_s)


class Runtime:
    """The calls of the service.  It answers from its first moment on, of the cluster from `begin` on."""

    def __init__(self, settings: GatewaySettings, about: About, stop: Callable[[], None]) -> None:
        """`stop` begins to stop the gateway."""
        self._settings = settings
        self._about = about
        self._stop = stop
        self._states: States | None = None

    def begin(self, states: States) -> None:
        """Serve the cluster from now on."""
        self._states = states

    def routes(self) -> dict[str, Route]:
        """Return what each call does."""
        return {
            "GetState": Route(self.get_state, Call.GET),
            "GetBulkState": Route(self.get_bulk_state, Call.BULK_GET),
            "SaveState": Route(self.save_state, Call.SAVE),
            "DeleteState": Route(self.delete_state, Call.DELETE),
            "DeleteBulkState": Route(self.delete_bulk_state, Call.BULK_DELETE),
            "ExecuteStateTransaction": Route(self.execute_state_transaction, Call.TRANSACTION),
            "QueryStateAlpha1": Route(self.query_state),
            "GetMetadata": Route(self.get_metadata),
            "SetMetadata": Route(self.set_metadata),
            "Shutdown": Route(self.shutdown),
        }

    async def get_state(self, request: runtime_pb2.GetStateRequest, caller: Caller) -> runtime_pb2.GetStateResponse:
        """An absent key has neither data nor ETag."""
        store = self._store(request.store_name, caller)
        consistency = options.consistency_of(
            messages.consistency_word(request.consistency), request.metadata.get("consistency")
        )
        entry = await store.get(request.key, consistency)
        if entry is None:
            return runtime_pb2.GetStateResponse()
        return runtime_pb2.GetStateResponse(data=entry.data, etag=entry.etag, metadata=messages.metadata_of(entry))

    async def get_bulk_state(
        self, request: runtime_pb2.GetBulkStateRequest, caller: Caller
    ) -> runtime_pb2.GetBulkStateResponse:
        """Items stand in the order of the request; what could not be read has an error in its place."""
        store = self._store(request.store_name, caller)
        consistency = options.consistency_of(request.metadata.get("consistency"))
        found = await store.get_many(request.keys, request.parallelism, consistency, caller.read.add)
        items = []
        for key, entry in zip(request.keys, found, strict=True):
            item = runtime_pb2.BulkStateItem(key=key)
            if isinstance(entry, StateError):
                item.error = entry.message
            elif entry is not None:
                item.data, item.etag = entry.data, entry.etag
                item.metadata.update(messages.metadata_of(entry))
            items.append(item)
        return runtime_pb2.GetBulkStateResponse(items=items)

    async def save_state(self, request: runtime_pb2.SaveStateRequest, caller: Caller) -> Empty:
        """Each item is a write of its own, but a malformed one refuses the call before anything is written."""
        store = self._store(request.store_name, caller)
        options.check_count(len(request.states))
        saves = [messages.save_of(item, Call.SAVE, store.name) for item in request.states]
        await messages.save_all(store, saves)
        return Empty()

    async def delete_state(self, request: runtime_pb2.DeleteStateRequest, caller: Caller) -> Empty:
        """Delete one key."""
        store = self._store(request.store_name, caller)
        await store.delete(messages.delete_of(request))
        return Empty()

    async def delete_bulk_state(self, request: runtime_pb2.DeleteBulkStateRequest, caller: Caller) -> Empty:
        """Each item is a delete of its own."""
        store = self._store(request.store_name, caller)
        options.check_count(len(request.states))
        await messages.delete_all(store, [messages.delete_of(item) for item in request.states])
        return Empty()

    async def execute_state_transaction(
        self, request: runtime_pb2.ExecuteStateTransactionRequest, caller: Caller
    ) -> Empty:
        """All or nothing, on one key."""
        store = self._store(request.storeName, caller)
        options.check_count(len(request.operations))
        operations = [_operation(operation, store) for operation in request.operations]
        await store.transact(operations)
        return Empty()

    async def query_state(self, request: runtime_pb2.QueryStateRequest, caller: Caller) -> Message:
        """Refuse: queries are not supported."""
        raise errors.no_query(self._store(request.store_name, caller).name)

    async def get_metadata(
        self, request: runtime_pb2.GetMetadataRequest, caller: Caller
    ) -> runtime_pb2.GetMetadataResponse:
        """Say who this is and which stores it serves."""
        return runtime_pb2.GetMetadataResponse(
            id=self._about.app_id,
            registered_components=[
                runtime_pb2.RegisteredComponents(**component) for component in self._about.components
            ],
            extended_metadata=self._about.attributes,
            runtime_version=DAPR_VERSION,
            actor_runtime=runtime_pb2.ActorRuntime(runtime_status=runtime_pb2.ActorRuntime.DISABLED),
        )

    async def set_metadata(self, request: runtime_pb2.SetMetadataRequest, caller: Caller) -> Empty:
        """Keep a fact that GetMetadata tells, until the gateway stops."""
        self._about.set(request.key, request.value)
        return Empty()

    async def shutdown(self, request: runtime_pb2.ShutdownRequest, caller: Caller) -> Empty:
        """Begin to stop the gateway, if requests may."""
        if not self._settings.allow_shutdown:
            raise errors.no_shutdown()
        self._stop()
        return Empty()

    def _store(self, name: str, caller: Caller) -> StateStore:
        if self._states is None:
            raise errors.not_connected()
        return self._states.store(name).within(caller.timeout_s)


def _operation(operation: runtime_pb2.TransactionalStateOperation, store: StateStore) -> Operation:
    if operation.operationType == "upsert":
        return messages.save_of(operation.request, Call.TRANSACTION, store.name)
    if operation.operationType == "delete":
        return messages.delete_of(operation.request)
    raise errors.unknown_operation(operation.operationType)


@contextlib.asynccontextmanager
async def serving(runtime: Runtime, settings: GatewaySettings, admission: Admission) -> AsyncIterator[str]:
    """Serve within the block; gives the address.  The end of the block waits for calls under way.

    `admission` is what other servers of the process hold as well.  Raises AddressError if the address cannot be had.
    """
    service = Service(SERVICE, runtime.routes(), admission, fault_of, token=settings.token, elsewhere=ELSEWHERE)
    server = rpc.server([service], settings.bounds)
    check(settings.host, settings.grpc_port, "grpc_port")  # the library tells of a failure in lines of its own
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
    except RuntimeError as error:
        reason = f"cannot listen on {host}:{settings.grpc_port}; choose another grpc_port"
        raise AddressError(reason) from error
    try:
        await server.start()
        yield f"{host}:{port}"
    finally:
        await server.stop(DRAIN_TIMEOUT_S)
