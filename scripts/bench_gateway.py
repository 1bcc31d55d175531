"""What Dapr's API costs: the measures of `bench.py --gateway`.

Saves and gets, strong and eventual, with 64 requests in flight, three ways in the same run: HTTP with 64 keep-alive
connections, gRPC, and kvclient itself.  Beside them the least that the same servers can do here (`echo.py`): a bare
Starlette application and a grpc.aio server that answer with what was sent.  The load comes from this process, the same
for an API and for its echo, but behind the API there are three nodes that want the same cores.  So there are two
ratios: of ops/s, which says what this machine can do with all of them on it, and of the server's own CPU time for a
request (echo over API), which says what the API costs beside the least that its libraries cost.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psutil  # type: ignore[import-untyped]

import kvclient
from kvnode import config as configuration
from kvnode.dapr.protos import common_pb2, runtime_pb2
from kvnode.local import detached, plan
from scripts import echo
from scripts.measuring import fill, quantile

WARM_UP_S = 1.0
CHANNELS = 4
STORE = "statestore"
ECHO = Path(echo.__file__)
START_TIMEOUT_S = 30.0
HEADERS = (
    *("workload", "way", "ops/s", "p50 ms", "p99 ms", "failed"),
    *("server CPU µs", "ops/s of echo", "by server CPU", "ops/s of kvclient"),
)
SERVICE = "/dapr.proto.runtime.v1.Dapr/"
METHODS = {"get": "GetState", "save": "SaveState"}
WORKLOADS = ("save strong", "save eventual", "get strong", "get eventual")

Once = Callable[[int], Awaitable[bool]]
"""Makes request number so-and-so and says whether it succeeded."""


class Result(NamedTuple):
    """One measurement, or the median of several."""

    ops_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU time of the server for one request; 0 where there is none between."""
    failed: int


class Server(NamedTuple):
    """A server that is measured: its port, and the process whose CPU time counts."""

    port: int
    process: psutil.Process


class Connection(asyncio.Protocol):
    """One keep-alive connection that has one request in flight."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Send a request; the future is its status."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Take the answer, or a part of it."""
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end >= 0:
            at = buffer.find(b"content-length: ", 0, end)
            length = int(buffer[at + 16 : buffer.index(b"\r", at)]) if at >= 0 else 0
            if len(buffer) >= end + 4 + length:
                self._buffer = b""
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(int(buffer[9:12]))
                return
        self._buffer = buffer

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


class Ways:
    """How each workload is asked for, each way, and its echo."""

    def __init__(self, arguments: argparse.Namespace, http_port: int, grpc_port: int, gateway: psutil.Process) -> None:
        self.arguments = arguments
        self._gateway = gateway
        self.value = b'"' + b"v" * (arguments.value_bytes - 2) + b'"'
        self._ports = {"HTTP": http_port, "gRPC": grpc_port}

    def key(self, number: int, consistency: str) -> str:
        """Return the key of a request: the first strong read of an eventually written key is a write, so each level has
        keys of its own."""
        return f"{consistency[:2]}{number % int(self.arguments.keys):08}"

    def http_request(self, workload: str, number: int) -> bytes:
        """Return the bytes of an HTTP request."""
        what, consistency = workload.split()
        if what == "get":
            path = f"/v1.0/state/{STORE}/{self.key(number, consistency)}?consistency={consistency}"
            return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        head = (
            f'[{{"key":"{self.key(number, consistency)}","options":{{"consistency":"{consistency}"}},"value":'.encode()
        )
        return _post(f"/v1.0/state/{STORE}", head + self.value + b"}]")

    def http_echo(self, workload: str, number: int) -> bytes:
        """Return the same for the echo."""
        if workload.startswith("get"):
            return f"GET /echo?{len(self.value)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        return _post("/echo", self.http_request(workload, number).partition(b"\r\n\r\n")[2])

    def grpc_request(self, workload: str, number: int) -> bytes:
        """Return the bytes of a gRPC request."""
        what, consistency = workload.split()
        level = f"CONSISTENCY_{consistency.upper()}"
        if what == "get":
            get = runtime_pb2.GetStateRequest(store_name=STORE, key=self.key(number, consistency), consistency=level)
            return get.SerializeToString()
        options = common_pb2.StateOptions(consistency=level)
        item = common_pb2.StateItem(key=self.key(number, consistency), value=self.value, options=options)
        return runtime_pb2.SaveStateRequest(store_name=STORE, states=[item]).SerializeToString()

    @asynccontextmanager
    async def http(self, port: int, request: Callable[[int], bytes]) -> AsyncIterator[list[Once]]:
        """Give one worker's call for each of the connections."""
        loop = asyncio.get_running_loop()
        made = [await loop.create_connection(Connection, "127.0.0.1", port) for _ in range(self.arguments.concurrency)]

        def worker(connection: Connection) -> Once:
            async def once(number: int) -> bool:
                return await connection.ask(request(number)) < 300

            return once

        try:
            yield [worker(connection) for _, connection in made]
        finally:
            for _, connection in made:
                connection.close()

    @asynccontextmanager
    async def grpc(self, port: int, method: str, request: Callable[[int], bytes]) -> AsyncIterator[list[Once]]:
        """Give one worker's call for each of the requests in flight, over a few channels."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(CHANNELS)]

        def worker(number: int) -> Once:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channels[number % CHANNELS].unary_unary(method)

            async def once(number: int) -> bool:
                try:
                    await call(request(number))
                except grpc.aio.AioRpcError:
                    return False
                return True

            return once

        try:
            yield [worker(number) for number in range(self.arguments.concurrency)]
        finally:
            for channel in channels:
                await channel.close()

    @asynccontextmanager
    async def direct(self, kv: kvclient.Kv, workload: str) -> AsyncIterator[list[Once]]:
        """Give one worker's call for each of the requests in flight."""
        what, consistency = workload.split()
        store, value = kv.store(STORE), self.value

        async def put(number: int) -> bool:
            await store.put(self.key(number, consistency), value, consistency=consistency)  # type: ignore[arg-type]
            return True

        async def get(number: int) -> bool:
            return await store.get(self.key(number, consistency), consistency=consistency) is not None  # type: ignore[arg-type]

        yield [put if what == "save" else get] * self.arguments.concurrency

    async def measure(self, kv: kvclient.Kv, echoes: dict[str, Server]) -> dict[tuple[str, str], Result]:
        """Measure everything once."""
        found: dict[tuple[str, str], Result] = {}
        for workload in WORKLOADS:
            async with self.direct(kv, workload) as workers:
                found[workload, "kvclient"] = await self._run(workers, None)
            http = {
                "HTTP": (Server(self._ports["HTTP"], self._gateway), self.http_request),
                "HTTP echo": (echoes["http"], self.http_echo),
            }
            for way, (server, make) in http.items():
                async with self.http(server.port, partial(make, workload)) as workers:
                    found[workload, way] = await self._run(workers, server.process)
            calls = {
                "gRPC": (Server(self._ports["gRPC"], self._gateway), SERVICE + METHODS[workload.split()[0]]),
                "gRPC echo": (echoes["grpc"], echo.METHOD),
            }
            for way, (server, method) in calls.items():
                async with self.grpc(server.port, method, partial(self.grpc_request, workload)) as workers:
                    found[workload, way] = await self._run(workers, server.process)
        return found

    async def _run(self, workers: list[Once], server: psutil.Process | None) -> Result:
        """Run a closed loop of these workers, without its first second."""
        latencies: list[float] = []
        failed, number = 0, 0
        start = time.perf_counter() + WARM_UP_S
        stop = start + self.arguments.seconds

        async def work(once: Once) -> None:
            nonlocal failed, number
            while (begin := time.perf_counter()) < stop:
                number += 7919  # a prime: every key, in no order that a cache would like
                is_done = await once(number)
                if begin >= start:
                    latencies.append(time.perf_counter() - begin)
                    failed += not is_done

        async def cpu() -> float:
            await asyncio.sleep(WARM_UP_S)
            begin_s = _cpu_s(server)
            await asyncio.sleep(stop - time.perf_counter())
            return _cpu_s(server) - begin_s

        used_s, _ = await asyncio.gather(cpu(), asyncio.gather(*map(work, workers)))
        latencies.sort()
        p50, p99 = ((quantile(latencies, part) or 0.0) * 1e3 for part in (0.5, 0.99))
        cpu_us = used_s / max(len(latencies), 1) * 1e6
        return Result(len(latencies) / self.arguments.seconds, p50, p99, cpu_us, failed)


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def _post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@contextmanager
def echoes() -> Iterator[dict[str, Server]]:
    """Run both echoes."""
    ports = dict(zip(("http", "grpc"), plan.free_ports(2), strict=True))
    started = [subprocess.Popen([sys.executable, str(ECHO), kind, str(port)]) for kind, port in ports.items()]
    try:
        give_up = time.monotonic() + START_TIMEOUT_S
        for port in ports.values():
            while not _is_taken(port):
                if time.monotonic() > give_up:
                    raise TimeoutError(f"the echo on port {port} did not start within {START_TIMEOUT_S:g} s")
                time.sleep(0.05)
        processes = map(psutil.Process, (process.pid for process in started))
        yield dict(zip(ports, map(Server, ports.values(), processes), strict=True))
    finally:
        for process in started:
            process.kill()
            process.wait()


def _is_taken(port: int) -> bool:
    try:
        plan.listen_once("127.0.0.1", port)
    except OSError:
        return True
    return False


async def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[tuple[str, str], Result]:
    """Return the medians of every workload, each way."""
    found: dict[tuple[str, str], list[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="kvnode-bench-") as directory, echoes() as ports:
        config = plan.on_free_ports(configuration.local(3, directory))
        with detached.cluster(config, with_gateway=True) as state:
            assert state.gateway is not None
            gateway = psutil.Process(state.gateway.pid)
            ways = Ways(arguments, config.gateway.http_port, config.gateway.grpc_port, gateway)
            async with kvclient.connect([node.address for node in state.nodes], timeout=10) as kv:
                store = kv.store(STORE)
                for level in ("strong", "eventual"):
                    keys = (ways.key(number, level) for number in range(arguments.keys))
                    await fill(keys, partial(store.put, value=ways.value, consistency=level))
                for repetition in range(arguments.repeat):
                    for name, result in (await ways.measure(kv, ports)).items():
                        found.setdefault(name, []).append(result)
                    say(f"{repetition + 1}/{arguments.repeat}")
    return {name: _median(results) for name, results in found.items()}


def _median(results: list[Result]) -> Result:
    ops_per_s, p50_ms, p99_ms, cpu_us = (
        statistics.median(column) for column in zip(*(result[:4] for result in results), strict=True)
    )
    return Result(ops_per_s, p50_ms, p99_ms, cpu_us, sum(result.failed for result in results))


def ratios(found: dict[tuple[str, str], Result], workload: str, way: str) -> tuple[float | None, ...]:
    """Return how an API compares with its echo (ops/s, then CPU) and with kvclient; None: nothing to compare."""
    if way not in ("HTTP", "gRPC"):
        return None, None, None
    ours, least = found[workload, way], found[workload, f"{way} echo"]
    by_cpu = least.cpu_us / ours.cpu_us if ours.cpu_us else None
    return ours.ops_per_s / least.ops_per_s, by_cpu, ours.ops_per_s / found[workload, "kvclient"].ops_per_s


def rows(found: dict[tuple[str, str], Result]) -> list[tuple[object, ...]]:
    """Return the table's rows."""
    made: list[tuple[object, ...]] = []
    for (workload, way), result in found.items():
        parts = ("-" if part is None else f"{part:.2f}" for part in ratios(found, workload, way))
        times = (f"{ms:.2f}" for ms in (result.p50_ms, result.p99_ms))
        cpu = f"{result.cpu_us:.0f}" if result.cpu_us else "-"
        made.append((workload, way, f"{result.ops_per_s:,.0f}", *times, result.failed, cpu, *parts))
    return made


def facts(found: dict[tuple[str, str], Result]) -> list[dict[str, Any]]:
    """Return everything for machines."""
    names = ("ratio_to_echo", "ratio_to_echo_by_cpu", "ratio_to_kvclient")
    made = []
    for (workload, way), result in found.items():
        parts = dict(zip(names, ratios(found, workload, way), strict=True))
        made.append({"workload": workload, "way": way, **result._asdict(), **parts})
    return made
