"""Names for protobuf's descriptors in annotations.

The stubs give either of two classes everywhere, depending on the implementation that runs, and no type for "whichever".
"""

from typing import Any, TypeAlias

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

Descriptor: TypeAlias = Any
FieldDescriptor: TypeAlias = Any
FileDescriptor: TypeAlias = Any
MethodDescriptor: TypeAlias = Any
ServiceDescriptor: TypeAlias = Any


def class_of(descriptor: Descriptor) -> type[Message]:
    """The generated class of a message."""
    return GetMessageClass(descriptor)
