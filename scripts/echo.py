#!/usr/bin/env python3
"""The yardsticks of `bench.py --gateway`: the least that an HTTP and a gRPC server can do here with the same libraries.

`echo.py http PORT` is a bare Starlette application on uvicorn with the gateway's settings; `echo.py grpc PORT` a
grpc.aio server with one method.  Both answer with what was sent, and a GET with so many bytes as its query says.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

METHOD = "/echo.Echo/Say"


async def echo(request: Request) -> Response:
    """Answer with the body, or with as many bytes as were asked for."""
    if request.method == "GET":
        return Response(b"v" * int(request.url.query or 0), media_type="application/json")
    return Response(await request.body(), media_type="application/json")


async def serve_http(port: int) -> None:
    """Serve until killed."""
    app = Starlette(routes=[Route("/echo", echo, methods=["GET", "POST"])])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, http="httptools", ws="none", loop="none", lifespan="off", log_level="error",
        access_log=False, server_header=False, proxy_headers=False,
    )  # fmt: skip
    await uvicorn.Server(config).serve()


async def serve_grpc(port: int) -> None:
    """Serve until killed."""

    async def say(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    server = grpc.aio.server()
    service, _, method = METHOD[1:].partition("/")
    handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run({"http": serve_http, "grpc": serve_grpc}[sys.argv[1]](int(sys.argv[2])))
