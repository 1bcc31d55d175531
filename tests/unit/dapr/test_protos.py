"""The messages of Dapr's services: their numbers, and that they share a process with Dapr's own SDK."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from kvnode.dapr.protos import common_pb2, components_pb2, pool, runtime_pb2

ROOT = Path(__file__).parents[3]

COMPONENT_FIELDS = {
    "MetadataRequest": {"properties": 1},
    "InitRequest": {"metadata": 1},
    "InitResponse": {},
    "FeaturesRequest": {},
    "FeaturesResponse": {"features": 1},
    "PingRequest": {},
    "PingResponse": {},
    "Etag": {"value": 1},
    "StateOptions": {"concurrency": 1, "consistency": 2},
    "GetRequest": {"key": 1, "metadata": 2, "consistency": 3},
    "GetResponse": {"data": 1, "etag": 2, "metadata": 3, "content_type": 4},
    "DeleteRequest": {"key": 1, "etag": 2, "metadata": 3, "options": 4},
    "SetRequest": {"key": 1, "value": 2, "etag": 3, "metadata": 4, "options": 5, "content_type": 6},
    "DeleteResponse": {},
    "SetResponse": {},
    "BulkDeleteResponse": {},
    "BulkSetResponse": {},
    "TransactionalStateResponse": {},
    "BulkDeleteRequest": {"items": 1, "options": 2},
    "BulkSetRequest": {"items": 1, "options": 2},
    "BulkGetRequest": {"items": 1, "options": 2},
    "BulkGetRequestOptions": {"parallelism": 1},
    "BulkGetResponse": {"items": 1},
    "BulkStateItem": {"key": 1, "data": 2, "etag": 3, "error": 4, "metadata": 5, "content_type": 6},
    "TransactionalStateRequest": {"operations": 1, "metadata": 2},
    "TransactionalStateOperation": {"delete": 1, "set": 2},
    "MultiMaxSizeRequest": {},
    "MultiMaxSizeResponse": {"max_size": 1},
}


@pytest.mark.parametrize(("name", "fields"), COMPONENT_FIELDS.items())
def test_a_component_message_has_the_numbers_that_a_sidecar_sends(name: str, fields: dict[str, int]) -> None:
    message: Descriptor = getattr(components_pb2, name).DESCRIPTOR
    assert message.full_name == f"dapr.proto.components.v1.{name}"
    assert {field.name: field.number for field in message.fields} == fields


def test_the_words_of_the_options_are_numbered_alike_everywhere() -> None:
    for options in (common_pb2.StateOptions, components_pb2.StateOptions):
        assert (options.CONCURRENCY_UNSPECIFIED, options.CONSISTENCY_UNSPECIFIED) == (0, 0)
        assert (options.CONCURRENCY_FIRST_WRITE, options.CONCURRENCY_LAST_WRITE) == (1, 2)
        assert (options.CONSISTENCY_EVENTUAL, options.CONSISTENCY_STRONG) == (1, 2)


@pytest.mark.parametrize(
    ("service", "calls"),
    [
        ("StateStore", "Init Features Delete Get Set Ping BulkDelete BulkGet BulkSet"),
        ("TransactionalStateStore", "Transact"),
        ("TransactionalStoreMultiMaxSize", "MultiMaxSize"),
    ],
)
def test_the_services_of_a_component_have_the_calls_of_a_sidecar(service: str, calls: str) -> None:
    assert set(pool.methods_of(f"dapr.proto.components.v1.{service}")) == set(calls.split())


def test_every_message_field_and_call_of_the_runtime_is_the_sdks() -> None:
    from dapr.proto.common.v1 import common_pb2 as sdk_common
    from dapr.proto.runtime.v1 import dapr_pb2 as sdk_runtime

    theirs = sdk_runtime.DESCRIPTOR.pool
    assert theirs is sdk_common.DESCRIPTOR.pool
    assert theirs is not pool.POOL
    for file in (common_pb2.DESCRIPTOR, runtime_pb2.DESCRIPTOR):
        for message in file.message_types_by_name.values():
            _compare(message, theirs.FindMessageTypeByName(message.full_name))
    their_service = theirs.FindServiceByName("dapr.proto.runtime.v1.Dapr")
    for name, method in pool.methods_of("dapr.proto.runtime.v1.Dapr").items():
        their_method = their_service.methods_by_name[name]
        assert method.input_type.full_name == their_method.input_type.full_name
        assert method.output_type.full_name == their_method.output_type.full_name


def _compare(ours: Descriptor, theirs: Descriptor) -> None:
    for field in ours.fields:
        assert _shape(field) == _shape(theirs.fields_by_number[field.number]), f"{ours.full_name}.{field.name}"
    for enum in ours.enum_types:
        their_values = theirs.enum_types_by_name[enum.name].values
        assert {v.name: v.number for v in enum.values} == {v.name: v.number for v in their_values}


def _shape(field: FieldDescriptor) -> tuple[object, ...]:
    kind = field.message_type or field.enum_type
    return field.name, field.number, field.type, field.is_repeated, kind and kind.full_name


@pytest.mark.parametrize("order", ["import dapr.clients, kvnode.dapr.protos.runtime_pb2", "reversed"])
@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_the_sdk_and_these_messages_share_one_process(order: str, implementation: str) -> None:
    imports = "import kvnode.dapr.protos.runtime_pb2, dapr.clients" if order == "reversed" else order
    program = f"""{imports}
from dapr.proto import api_v1
from kvnode.dapr.protos import common_pb2, runtime_pb2
item = common_pb2.StateItem(key="k", value=b"v", etag=common_pb2.Etag(value=""), metadata={{"ttlInSeconds": "1"}})
item.options.consistency = common_pb2.StateOptions.CONSISTENCY_STRONG
sent = runtime_pb2.SaveStateRequest(store_name="s", states=[item]).SerializeToString(deterministic=True)
read = api_v1.SaveStateRequest.FromString(sent)
assert read.states[0].HasField("etag") and read.states[0].options.consistency == 2, read
assert read.SerializeToString(deterministic=True) == sent
"""
    environment = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    path = [str(ROOT), str(ROOT / "client")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{program}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_generated_modules_are_up_to_date() -> None:
    script = ROOT / "scripts/generate_protos.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "up to date\n"), done.stdout + done.stderr
