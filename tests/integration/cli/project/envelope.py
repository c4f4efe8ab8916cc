"""The envelope of arms, on a topic as the environment describes it: each test has its own, and can declare it anew."""

from __future__ import annotations

import os
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from aorist.v1 import event_pb2, options_pb2
from fleet.arms.v1 import events_pb2


def _made() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="tested/envelope.proto", package="tested", syntax="proto3")
    file.dependency.extend(module.DESCRIPTOR.name for module in (event_pb2, events_pb2, options_pb2))
    message = file.message_type.add(name="Envelope")
    message.oneof_decl.add(name="event")
    message.field.add(name="meta", number=1, type=11, label=1, type_name=".aorist.v1.EventMeta")
    changed = ".fleet.arms.v1.JointPositionsChanged"
    message.field.add(name="joint_positions_changed", number=2, type=11, label=1, type_name=changed, oneof_index=0)
    topic = message.options.Extensions[options_pb2.topic]
    topic.name, topic.partitions = os.environ["TESTED_TOPIC"], int(os.environ["TESTED_PARTITIONS"])
    topic.key.append("arm_id")
    if retention_ms := int(os.environ["TESTED_RETENTION_MS"]):
        topic.retention_ms = retention_ms
    else:
        topic.compacted = True
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tested.Envelope"))


Envelope = _made()
