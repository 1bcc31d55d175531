"""The gateway as a process: one client of the cluster, and the servers that speak for it.

Decides: the order of listening, connecting, serving, draining and closing.  Leaves to others: what is served (`http`,
`grpc`), and where the settings come from (`kvnode.cli`).

    listen -> (answer "not ready") -> connect to the cluster, as long as it takes -> serve until SIGTERM, SIGINT or an
    allowed shutdown -> say "not ready" -> finish what is under way -> close
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn

from kvnode.dapr import openapi, pages
from kvnode.dapr.about import About
from kvnode.dapr.admission import Admission
from kvnode.dapr.connecting import connected
from kvnode.dapr.grpc import Runtime, serving
from kvnode.dapr.guard import Guard
from kvnode.dapr.health import Quorums
from kvnode.dapr.http import NO_ROUTE, Api
from kvnode.dapr.listening import BACKLOG, listen
from kvnode.dapr.settings import GatewaySettings
from kvnode.dapr.state import States

DRAIN_TIMEOUT_S = 10
"""How long requests under way may take to end; a request to the cluster takes 5 seconds at most."""

_log = logging.getLogger("kvnode.dapr")


async def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and stop; prints one line when it serves.

    Raises AddressError if an address cannot be had, and kvclient.InvalidRequest for a store whose settings are out of
    bounds.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def announce(http: str, grpc: str) -> None:
        gc.collect()
        gc.freeze()
        print(f"kvnode gateway serves HTTP on {http} and gRPC on {grpc}", flush=True)

    await serve(settings, stopped, announce)


async def serve(settings: GatewaySettings, stopped: asyncio.Event, announce: Callable[[str, str], None]) -> None:
    """Serve until `stopped` is set, then drain.

    `announce` is called with the addresses of HTTP and gRPC once the cluster is served.
    """
    about = About(settings)
    document = openapi.document(settings.stores, has_token=bool(settings.token))
    admission = Admission(settings.bounds)
    api = Api(settings, about, stopped.set, pages.make(document, NO_ROUTE), admission)
    calls = Runtime(settings, about, stopped.set)
    async with (
        contextlib.AsyncExitStack() as last,
        _http(api, settings, admission, stopped) as http_address,
        serving(calls, settings, admission) as grpc_address,
    ):
        kv = await connected(settings.seeds, settings.cluster, stopped)
        if kv is None:
            return
        last.push_async_callback(kv.close)  # after the servers, whose requests need it
        states = States(kv, settings)
        api.begin(states, Quorums(kv, (store.store for store in settings.stores.values())))
        calls.begin(states)
        announce(http_address, grpc_address)
        await stopped.wait()
        _log.info("draining")
        api.end()


# -- HTTP


class _Server(uvicorn.Server):
    """A server that leaves the signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextlib.asynccontextmanager
async def _http(
    api: Api, settings: GatewaySettings, admission: Admission, stopped: asyncio.Event
) -> AsyncIterator[str]:
    """Serve HTTP within the block; gives the address.  The end of the block waits for requests under way.

    A server that ends by itself sets `stopped`, and raises why at the end of the block.
    """
    sockets = listen(settings.host, settings.http_port, "http_port")
    bounds = settings.bounds
    guard = Guard(bounds, admission)
    server = _Server(
        uvicorn.Config(
            api,
            http=guard.protocol,  # type: ignore[arg-type]  # whatever makes a protocol will do
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            backlog=BACKLOG,
            timeout_keep_alive=round(bounds.keep_alive_s),
            timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
        )
    )
    loop = asyncio.get_running_loop()
    serving = loop.create_task(server.serve(sockets), name="http")
    serving.add_done_callback(lambda _: stopped.set())
    ending = loop.create_task(_end(server, stopped), name="http-end")
    host, port = sockets[0].getsockname()[:2]
    try:
        with guard:
            yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    finally:
        server.should_exit = True
        ending.cancel()
        await serving


async def _end(server: uvicorn.Server, stopped: asyncio.Event) -> None:
    """Begin to drain HTTP when the gateway stops, beside gRPC and not after it."""
    await stopped.wait()
    server.should_exit = True
