"""How the gateway's process ends, on a scripted cluster that keeps requests waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import httpx
from grpc_client import Client

from kvclient.wire import messages as m
from kvnode.dapr import gateway as process
from kvnode.dapr import grpc as runtime
from kvnode.dapr.protos import runtime_pb2
from kvnode.dapr.settings import DaprStore, GatewaySettings


async def test_http_and_grpc_drain_beside_each_other(cluster: Any) -> None:
    seeds = tuple(node.address for node in cluster.nodes)
    settings = GatewaySettings(seeds, "test", {"s": DaprStore("s", "default")}, http_port=0, grpc_port=0)
    stopped, served = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(process.serve(settings, stopped, lambda *at: served.set_result(at)))
    http_address, grpc_address = await served
    async with (
        httpx.AsyncClient(base_url=f"http://{http_address}", timeout=30) as http,
        grpc.aio.insecure_channel(grpc_address) as channel,
    ):
        cluster.everywhere(lambda message: cluster.nodes[0].HOLD if message[0] == m.GET else None)
        request = runtime_pb2.GetStateRequest(store_name="s", key="k")
        under_way = [
            asyncio.ensure_future(Client(channel, runtime.SERVICE).call("GetState", request)),
            asyncio.ensure_future(http.get("/v1.0/state/s/k")),
        ]
        async with asyncio.timeout(10):
            while len(cluster.requests(m.GET)) < 2:
                await asyncio.sleep(0.01)
            stopped.set()
            while await is_open(http_address) or await is_open(grpc_address):
                await asyncio.sleep(0.01)
        assert not any(call.done() for call in under_way)
        for node in cluster.nodes:
            node.release()
        assert [(await call) is not None for call in under_way] == [True, True]
    await asyncio.wait_for(serving, 10)


async def is_open(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True
