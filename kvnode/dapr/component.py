"""kvnode as a pluggable component of Dapr: what a sidecar calls, at a Unix socket.

Decides: which services are offered, which instance a call concerns, which failures look like what to a sidecar, and how
the process starts and stops.  Leaves to others: what the operations mean (`state`), the fields (`messages`), what an
instance was told (`instances`), the socket's file (`sockets`), how a call is let in (`rpc`).

A sidecar understands a failure by its one detail: BadRequest with the field `etag` is a mismatch or an invalid ETag;
ErrorInfo with `kit_error` names the HTTP status that its caller gets.  Transactions over several keys do not exist
yet, so TransactionalStateStore is not offered, and TRANSACTIONAL is no feature.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection

import kvclient
from kvclient import ConfigError, InvalidRequest
from kvnode.dapr import errors, messages, options, rpc, sockets
from kvnode.dapr.admission import Admission
from kvnode.dapr.connecting import connected
from kvnode.dapr.errors import Call, Kind, StateError
from kvnode.dapr.instances import Instances, store_of, used_of
from kvnode.dapr.protos import components_pb2
from kvnode.dapr.protos.pool import POOL
from kvnode.dapr.rpc import Caller, Fault, Route, Service, cut, error_info, facts_of
from kvnode.dapr.settings import ComponentSettings
from kvnode.dapr.state import Entry, StateStore

log = logging.getLogger(__name__)

STATE_STORE = "dapr.proto.components.v1.StateStore"
MULTI_MAX_SIZE = "dapr.proto.components.v1.TransactionalStoreMultiMaxSize"
INSTANCE_NAME = "x-component-instance"
FEATURES = ("ETAG", "TTL")
JSON_TYPE = "application/json"
INIT_TIMEOUT_S = 5.0
"""How long an Init without a deadline waits for the cluster; it is Dapr's own default."""

_ETAG_CODES = {
    Kind.ETAG_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.ETAG_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
}


def fault_of(error: StateError) -> Fault:
    """Return what a sidecar is told: the cause alone, because it puts the words of its own API before it."""
    message = cut(error.detail)
    if (code := _ETAG_CODES.get(error.kind)) is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field="etag", description=message)
        return Fault(code, message, error_details_pb2.BadRequest(field_violations=[violation]))
    kit = {"kit_error": "true", "http_code": str(error.row.status), "tag": error.code}
    info = error_info(error.reason, facts_of(error) | kit)
    return Fault(grpc.StatusCode[error.row.grpc], message, info, error.retry_after_s)


class Component:
    """The calls of a component, for all its instances.  It answers at once, of the cluster from `begin` on."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self._initializing = asyncio.Lock()
        self._kv: asyncio.Future[kvclient.Kv] = asyncio.get_running_loop().create_future()
        self._stores: dict[str, StateStore] = {}

    def begin(self, kv: kvclient.Kv) -> None:
        """Serve the cluster from now on.  Raises InvalidRequest for a kept instance whose store cannot be."""
        for name, store in self._instances.all().items():
            self._stores[name] = StateStore(kv, store, has_prefixed_keys=True)
        self._kv.set_result(kv)

    def services(self, admission: Admission) -> list[grpc.GenericRpcHandler]:
        """Return the handlers of every service offered."""
        state = {
            "Init": Route(self.init),
            "Features": Route(self.features),
            "Ping": Route(self.ping),
            "Get": Route(self.get, Call.GET),
            "Set": Route(self.set, Call.SAVE),
            "Delete": Route(self.delete, Call.DELETE),
            "BulkGet": Route(self.bulk_get, Call.BULK_GET),
            "BulkSet": Route(self.bulk_set, Call.SAVE),
            "BulkDelete": Route(self.bulk_delete, Call.BULK_DELETE),
        }
        sizes = {"MultiMaxSize": Route(self.multi_max_size)}
        return [
            Service(STATE_STORE, state, admission, fault_of),
            Service(MULTI_MAX_SIZE, sizes, admission, fault_of),
        ]

    async def init(self, request: components_pb2.InitRequest, caller: Caller) -> components_pb2.InitResponse:
        """Begin or change an instance; it is kept for the next start.

        A sidecar that starts before the cluster waits here: a component that fails its Init ends the sidecar.
        """
        instance = _instance(caller)
        try:
            used = used_of(request.metadata.properties)
            described = store_of(instance, used)
            await asyncio.wait((self._kv,), timeout=INIT_TIMEOUT_S if caller.timeout_s is None else caller.timeout_s)
            if not self._kv.done():
                raise errors.not_connected()
            store = StateStore(self._kv.result(), described, has_prefixed_keys=True)
            # To its end, even if the caller goes away: what is kept and what is served must be the same.
            await asyncio.shield(asyncio.ensure_future(self._keep(instance, used, store)))
        except (ConfigError, InvalidRequest) as error:
            raise errors.malformed(f"component {instance}: {error}") from error
        except OSError as error:
            text = f"component {instance}: what it is told cannot be kept: {error.strerror}"
            raise StateError(Kind.FAILED, text) from error
        log.info("instance %r is the store %r", instance, store.settings.store)
        return components_pb2.InitResponse()

    async def _keep(self, instance: str, used: Mapping[str, str], store: StateStore) -> None:
        async with self._initializing:
            await asyncio.to_thread(self._instances.keep, instance, used)
            if (before := self._stores.get(instance)) is not None and before.settings != store.settings:
                log.warning("instance %r is now %r: sidecars that knew it otherwise follow", instance, used)
            self._stores[instance] = store

    async def features(
        self, request: components_pb2.FeaturesRequest, caller: Caller
    ) -> components_pb2.FeaturesResponse:
        """Say what every store can do."""
        return components_pb2.FeaturesResponse(features=FEATURES)

    async def ping(self, request: components_pb2.PingRequest, caller: Caller) -> components_pb2.PingResponse:
        """Answer."""
        return components_pb2.PingResponse()

    async def multi_max_size(
        self, request: components_pb2.MultiMaxSizeRequest, caller: Caller
    ) -> components_pb2.MultiMaxSizeResponse:
        """Say how many operations a transaction may have."""
        return components_pb2.MultiMaxSizeResponse(max_size=StateStore.transaction_operations_max)

    async def get(self, request: components_pb2.GetRequest, caller: Caller) -> components_pb2.GetResponse:
        """An absent key has neither data nor ETag."""
        entry = await self._store(caller).get(request.key, _consistency(request))
        if entry is None:
            return components_pb2.GetResponse()
        return components_pb2.GetResponse(
            data=entry.data,
            etag=components_pb2.Etag(value=entry.etag),
            metadata=messages.metadata_of(entry),
            content_type=JSON_TYPE if entry.is_json else "",
        )

    async def set(self, request: components_pb2.SetRequest, caller: Caller) -> components_pb2.SetResponse:
        """Write one value."""
        store = self._store(caller)
        await messages.save_all(store, [_save(request, store)])
        return components_pb2.SetResponse()

    async def delete(self, request: components_pb2.DeleteRequest, caller: Caller) -> components_pb2.DeleteResponse:
        """Delete one key."""
        delete = messages.delete_of(request, consistency=_unsaid(request.metadata))
        await self._store(caller).delete(delete)
        return components_pb2.DeleteResponse()

    async def bulk_get(self, request: components_pb2.BulkGetRequest, caller: Caller) -> components_pb2.BulkGetResponse:
        """Items stand in the order of the request; what could not be read has an error in its place."""
        store = self._store(caller)
        options.check_count(len(request.items))
        reads = [(item.key, _consistency(item)) for item in request.items]
        found: dict[int, Entry | StateError | None] = {}
        for consistency in {said for _, said in reads}:
            numbers = [number for number, (_, said) in enumerate(reads) if said == consistency]
            keys = [reads[number][0] for number in numbers]
            entries = await store.get_many(keys, request.options.parallelism, consistency, caller.read.add)
            found |= zip(numbers, entries, strict=True)
        items = []
        for number, (key, _) in enumerate(reads):
            entry = found[number]
            item = components_pb2.BulkStateItem(key=key)
            if isinstance(entry, StateError):
                item.error = entry.message
            elif entry is not None:
                item.data, item.etag.value = entry.data, entry.etag
                item.metadata.update(messages.metadata_of(entry))
                item.content_type = JSON_TYPE if entry.is_json else ""
            items.append(item)
        return components_pb2.BulkGetResponse(items=items)

    async def bulk_set(self, request: components_pb2.BulkSetRequest, caller: Caller) -> components_pb2.BulkSetResponse:
        """Each item is a write of its own."""
        store = self._store(caller)
        options.check_count(len(request.items))
        await messages.save_all(store, [_save(item, store) for item in request.items])
        return components_pb2.BulkSetResponse()

    async def bulk_delete(
        self, request: components_pb2.BulkDeleteRequest, caller: Caller
    ) -> components_pb2.BulkDeleteResponse:
        """Each item is a delete of its own."""
        options.check_count(len(request.items))
        deletes = [messages.delete_of(item, consistency=_unsaid(item.metadata)) for item in request.items]
        await messages.delete_all(self._store(caller), deletes)
        return components_pb2.BulkDeleteResponse()

    def _store(self, caller: Caller) -> StateStore:
        if not self._kv.done():
            raise errors.not_connected()
        instance = _instance(caller)
        store = self._stores.get(instance)
        if store is None:
            raise errors.not_configured(instance)
        return store.within(caller.timeout_s)


def _instance(caller: Caller) -> str:
    return caller.metadata.get(INSTANCE_NAME, "")


def _unsaid(metadata: Mapping[str, str]) -> str:
    """Return the consistency of requests that do not say: actors and workflows, known by the partition they name, rely
    on reading what they wrote."""
    return "strong" if metadata.get("partitionKey") else ""


def _consistency(request: components_pb2.GetRequest) -> kvclient.Consistency | None:
    return options.consistency_of(
        messages.consistency_word(request.consistency),
        request.metadata.get("consistency"),
        _unsaid(request.metadata),
    )


def _save(request: components_pb2.SetRequest, store: StateStore) -> options.Save:
    return messages.save_of(
        request, Call.SAVE, store.name, content_type=request.content_type, consistency=_unsaid(request.metadata)
    )


async def run(settings: ComponentSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and stop; prints one line when it serves.

    Raises ConfigError if the directory or the socket cannot be used.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def announce(path: Path) -> None:
        print(f"kvnode component serves state.{path.stem} at {path}", flush=True)

    await serve(settings, stopped, announce)


async def serve(settings: ComponentSettings, stopped: asyncio.Event, announce: Callable[[Path], None]) -> None:
    """Serve until `stopped` is set, then drain; `announce` is called with the socket once the cluster is served."""
    path = (settings.socket or sockets.default_path(os.environ)).absolute()
    with closing(Instances(settings.directory)) as instances:
        component = Component(instances)
        async with AsyncExitStack() as last, _serving(component, path, settings):
            kv = await connected(settings.seeds, settings.cluster, stopped)
            if kv is None:
                return
            last.push_async_callback(kv.close)  # after the server, whose calls need it
            component.begin(kv)
            announce(path)
            await stopped.wait()
            log.info("draining")


@asynccontextmanager
async def _serving(component: Component, path: Path, settings: ComponentSettings) -> AsyncIterator[None]:
    """Serve within the block; its end waits for calls under way."""
    sockets.make_way(path)
    server = rpc.server(component.services(Admission(settings.bounds)), settings.bounds)
    reflection.enable_server_reflection((STATE_STORE, MULTI_MAX_SIZE, reflection.SERVICE_NAME), server, POOL)
    made = await _listen(server, path, settings.socket_mode)
    try:
        yield
    finally:
        sockets.remove(path, made)
        await server.stop(settings.drain_s)


async def _listen(server: grpc.aio.Server, path: Path, mode: int) -> sockets.Identity:
    """Serve at a socket that appears when it is served.  Raises ConfigError."""
    private = sockets.private_place(path)
    try:
        server.add_insecure_port(f"unix:{private}")
        await server.start()
        return sockets.publish(private, path, mode)
    except BaseException as error:
        await server.stop(None)
        if isinstance(error, RuntimeError | OSError):
            raise ConfigError(f"nothing can listen at {path}: {error}") from error
        raise
    finally:
        sockets.clear(private)
