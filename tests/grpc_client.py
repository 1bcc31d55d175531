"""What the tests of both gRPC services share: a client that says any bytes, and the one detail of a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from kvnode.dapr.protos import pool

DETAILS = "grpc-status-details-bin"


class Refusal:
    """What a refused caller got."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details() or ""
        self.trailers = dict(error.trailing_metadata())
        self.info: error_details_pb2.ErrorInfo | None = None
        self.request: error_details_pb2.BadRequest | None = None
        if DETAILS in self.trailers:
            self._read(status_pb2.Status.FromString(self.trailers[DETAILS]))

    def _read(self, status: Any) -> None:
        assert (status.code, status.message) == (self.code.value[0], self.message)
        [detail] = status.details  # exactly one
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            self.info = error_details_pb2.ErrorInfo.FromString(detail.value)
        else:
            assert detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)
            self.request = error_details_pb2.BadRequest.FromString(detail.value)

    @property
    def reason(self) -> str:
        assert self.info is not None, self.message
        assert self.info.domain == "dapr.io"
        return str(self.info.reason)

    @property
    def facts(self) -> dict[str, str]:
        assert self.info is not None, self.message
        return dict(self.info.metadata)


class Client:
    """Calls of one service, with whatever metadata each of them has."""

    def __init__(self, channel: grpc.aio.Channel, service: str, metadata: Mapping[str, str] | None = None) -> None:
        self.channel = channel
        self.service = service
        self.metadata = dict(metadata or {})
        self._methods = pool.methods_of(service)

    def using(self, **metadata: str) -> Client:
        named = {name.replace("_", "-"): text for name, text in metadata.items()}
        return Client(self.channel, self.service, self.metadata | named)

    async def call(self, name: str, request: Message | bytes | None = None, timeout: float | None = 20) -> Any:
        method = self._methods[name]
        if request is None:
            request = pool.request_class(method)()
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        answer = await self.raw(f"/{self.service}/{name}", raw, timeout)
        return message_factory.GetMessageClass(method.output_type).FromString(answer)

    async def raw(self, path: str, raw: bytes, timeout: float | None = 20) -> bytes:
        call = self.channel.unary_unary(path)
        answer: bytes = await call(raw, timeout=timeout, metadata=tuple(self.metadata.items()))
        return answer

    async def refused(self, name: str, request: Message | bytes | None = None, timeout: float | None = 20) -> Refusal:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(name, request, timeout)
        return Refusal(caught.value)
