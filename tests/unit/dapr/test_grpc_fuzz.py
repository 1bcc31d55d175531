"""Random messages for every call of both gRPC services: an answer or one documented refusal, and never a defect."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from grpc_client import Client, Refusal

import kvclient
from kvnode.dapr import component
from kvnode.dapr import grpc as runtime
from kvnode.dapr.about import About
from kvnode.dapr.admission import Admission
from kvnode.dapr.component import Component
from kvnode.dapr.instances import Instances
from kvnode.dapr.protos import pool
from kvnode.dapr.rpc import server
from kvnode.dapr.settings import Bounds, DaprStore, GatewaySettings
from kvnode.dapr.state import States

MESSAGES_PER_CALL = 60
REFUSALS = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}
TEXTS = (
    "", "k", "s", "a||b", "||", "é", "\x00", "\n", "😀" * 300, "x" * 2000, "upsert", "delete", "{}", "metadata",
    "consistency", "concurrency", "strong", "first-write", "ttlInSeconds", "-1", "0", "1e9", "99999999999999999999",
    "contentType", "application/json", "partitionKey", "store", "keyPrefix", "AaIBMVibAADsQGoAlFHwaAAAAAEAAAAAAAAABw",
)  # fmt: skip
BYTES = (b"", b"1", b"{}", b'{"a":', b"\xff\xfe", b"[" * 5000, b"x" * 5000, b"NaN")


def filled(message: Any, rng: random.Random, depth: int = 0) -> Message:
    """Fill a message with anything."""
    descriptor: Descriptor = message.DESCRIPTOR
    for field in descriptor.fields:
        if rng.random() < 0.25:
            continue
        target = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(rng.randrange(4)):
                target[rng.choice(TEXTS)] = rng.choice(TEXTS)
        elif field.message_type is not None:
            for _ in range(rng.randrange(4) if field.is_repeated else 1):
                one = target.add() if field.is_repeated else target
                if not field.is_repeated:
                    one.SetInParent()
                filled(one, rng, depth + 1)
        elif field.is_repeated:
            target.extend(value_of(field, rng) for _ in range(rng.randrange(4)))
        else:
            setattr(message, field.name, value_of(field, rng))
    return message  # type: ignore[no-any-return]


def value_of(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return "s" if field.name in ("store_name", "storeName") and rng.random() < 0.9 else rng.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice(BYTES)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice((0, 1, 2, 3, -1, 2**31 - 1))
    return rng.choice((0, 1, -1, 7, 2**31 - 1))


def mangled(raw: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a message with a few of them changed, lost or added."""
    changed = bytearray(raw)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed) + 1)
        changed[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(changed)


async def attack(client: Client, seed: int) -> None:
    rng = random.Random(seed)
    for name, method in pool.methods_of(client.service).items():
        for number in range(MESSAGES_PER_CALL):
            raw = filled(pool.request_class(method)(), rng).SerializeToString()
            if number % 3 == 0:
                raw = mangled(raw, rng)
            try:
                await client.call(name, raw)
            except grpc.aio.AioRpcError as error:
                refused = Refusal(error)  # checks that it has exactly one detail
                assert refused.code in REFUSALS, (name, raw, refused.message)
                assert refused.info is not None or refused.request is not None, (name, raw, refused.message)
                if refused.info is not None:
                    assert refused.facts["outcome"] in ("not-applied", "partial"), (name, raw, refused.message)


@pytest.mark.parametrize("seed", range(3))
async def test_the_runtimes_service(kv: kvclient.Kv, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    settings = GatewaySettings((), "test", {"s": DaprStore("s", "users")}, grpc_port=0)
    made = runtime.Runtime(settings, About(settings), lambda: None)
    made.begin(States(kv, settings))
    async with (
        runtime.serving(made, settings, Admission(settings.bounds)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        await attack(Client(channel, runtime.SERVICE), seed)
    assert not caplog.records


@pytest.mark.parametrize("seed", range(3))
async def test_the_components_service(
    kv: kvclient.Kv, caplog: pytest.LogCaptureFixture, tmp_path: Path, seed: int
) -> None:
    made = Component(Instances(tmp_path / "state"))
    made.begin(kv)
    served = server(made.services(Admission(Bounds())), Bounds())
    served.add_insecure_port(f"unix:{tmp_path}/s")
    await served.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        client = Client(channel, component.STATE_STORE).using(x_component_instance="s")
        await client.call("Init")
        await attack(client, seed)
    await served.stop(None)
    assert not caplog.records
