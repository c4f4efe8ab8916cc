"""How a state becomes bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

S = TypeVar("S")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Codec(Generic[S]):
    """How a state becomes bytes of a snapshot and comes back. `decode(encode(state))` must equal the state."""

    encode: Callable[[S], bytes]
    decode: Callable[[bytes], S]

    @staticmethod
    def through(message: type[M], pack: Callable[[S], M], unpack: Callable[[M], S]) -> Codec[S]:
        """A codec by way of a protobuf message: snapshots then evolve as messages do."""
        return Codec(
            lambda state: pack(state).SerializeToString(deterministic=True),
            lambda data: unpack(message.FromString(data)),
        )
