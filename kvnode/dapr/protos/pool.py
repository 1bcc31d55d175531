"""The descriptor pool of this package's messages, and how a generated module fills it.

Decides: that a generated module holds nothing but its serialized descriptor, which depends on neither the version of
the generator nor that of the runtime, and gets its classes from the runtime's public interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, empty_pb2, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

POOL = DescriptorPool()
POOL.AddSerializedFile(empty_pb2.DESCRIPTOR.serialized_pb)


def define(serialized: bytes, module: dict[str, Any]) -> None:
    """Add a serialized `FileDescriptorProto` to the pool, and its messages to a module's names."""
    POOL.AddSerializedFile(serialized)
    said = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    file = POOL.FindFileByName(said.name)
    module["DESCRIPTOR"] = file
    for name, message in file.message_types_by_name.items():
        module[name] = message_factory.GetMessageClass(message)


def methods_of(service: str) -> Mapping[str, MethodDescriptor]:
    """Return the calls of a service, by name.  The module that defines it must have been imported."""
    return dict(POOL.FindServiceByName(service).methods_by_name)


def request_class(method: MethodDescriptor) -> type[Message]:
    """Return the class of a call's request."""
    return message_factory.GetMessageClass(method.input_type)
