"""Gateways for the tests: the real one, on a thread of its own, for a real cluster."""

from __future__ import annotations

import asyncio
import json as jsons
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
from processes import RealCluster

from kvnode.dapr import gateway as process
from kvnode.dapr.settings import DaprStore, GatewaySettings

STORES = {
    "statestore": DaprStore("statestore", "default"),
    "strong": DaprStore("strong", "default", "strong||", consistency="strong"),
    "short": DaprStore("short", "default", "short||", ttl_s=1000),
}


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    address: str
    grpc_address: str
    settings: GatewaySettings

    @property
    def url(self) -> str:
        """The beginning of every path."""
        return f"http://{self.address}"


def settings_of(cluster: RealCluster, **changes: Any) -> GatewaySettings:
    """The settings of a gateway for a cluster."""
    settings = GatewaySettings(tuple(cluster.addresses), cluster.config.cluster_name, STORES, "app")
    return replace(settings, http_port=0, grpc_port=0, **changes)


@contextmanager
def run_gateway(settings: GatewaySettings) -> Iterator[Gateway]:
    """Run a gateway on a thread of its own until the block ends; it stops as the process does, but for the signal."""
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()
    served: list[tuple[str, str]] = []
    is_served = threading.Event()

    def announce(http: str, grpc: str) -> None:
        served.append((http, grpc))
        is_served.set()

    def run() -> None:
        try:
            loop.run_until_complete(process.serve(settings, stopped, announce))
        finally:
            is_served.set()

    thread = threading.Thread(target=run, name="gateway")
    thread.start()
    try:
        assert is_served.wait(30)
        assert served, "the gateway ended before it served"
        yield Gateway(*served[0], settings)
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


class Http(httpx.Client):
    """A client of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(base_url=gateway.url, timeout=30)

    def save(self, *items: Any, store: str = "statestore", **options: Any) -> httpx.Response:
        """Save items."""
        return self.post(f"/v1.0/state/{store}", content=jsons.dumps(items), **options)

    def read(self, key: str, store: str = "statestore", **options: Any) -> httpx.Response:
        """Get a key, whose name is part of the path as it is."""
        return self.get(f"/v1.0/state/{store}/{key}", **options)


PROGRAM = """
import asyncio, importlib, pickle, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
name, settings = pickle.load(sys.stdin.buffer)
asyncio.run(importlib.import_module(name).run(settings))
"""


@contextmanager
def run_process(module: str, settings: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a module of `kvnode.dapr` as its own process; gives it with the line that says that it serves.

    It takes Ctrl-C also where the tests run in the background of a shell, which has them ignore SIGINT.  It sees to
    that itself: a `preexec_fn` would fork this process with the threads of gRPC, and the child may not survive that.
    """
    started = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert started.stdin is not None
        assert started.stdout is not None
        pickle.dump((module, settings), started.stdin)
        started.stdin.close()
        yield started, started.stdout.readline().decode()
    finally:
        started.kill()
        started.wait()


@contextmanager
def run_gateway_process(settings: GatewaySettings) -> Iterator[Gateway]:
    """Run a gateway as its own process, as its users do."""
    with run_process("kvnode.dapr.gateway", settings) as (_, line):
        words = line.split()
        yield Gateway(words[5], words[-1], settings)
