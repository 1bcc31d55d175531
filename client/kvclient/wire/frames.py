"""Frames: a 4-byte big-endian length, then one msgpack array of messages.

Decides: where a frame ends, how large it may be, and what is not a frame.  Leaves to others: what a message means
(`messages`) and every socket.

All messages that a loop turn produced for one link leave in one frame; the receiver unpacks them with one call.  A frame
is refused by its length before any of it is buffered, so a peer can make us hold at most `frame_bytes_max` bytes.
"""

from __future__ import annotations

from typing import Any

import msgpack

HEADER_BYTES = 4
HANDSHAKE_BYTES_MAX = 64 * 1024
"""Until the handshake is through, a stranger gets this much of our memory and no more."""

Message = tuple[Any, ...] | list[Any]

_pack = msgpack.Packer(autoreset=True).pack


class FrameError(Exception):
    """What came over the link is not a frame of this protocol; the link must be closed with this reason."""


def encode(messages: list[Message], frame_bytes_max: int) -> bytes:
    """Return the frames that carry `messages` in order, as few as the limit allows.

    Raises FrameError if a single message exceeds `frame_bytes_max`; nothing was sent then.
    """
    payload: bytes = _pack(messages)
    if len(payload) <= frame_bytes_max:
        return len(payload).to_bytes(HEADER_BYTES, "big") + payload
    if len(messages) == 1:
        raise FrameError(f"a message of {len(payload)} bytes exceeds the frame limit of {frame_bytes_max} bytes")
    half = len(messages) // 2
    return encode(messages[:half], frame_bytes_max) + encode(messages[half:], frame_bytes_max)


class Decoder:
    """Turns a byte stream into batches of messages.

    Invariant: it never holds more than one incomplete frame of at most `frame_bytes_max` bytes.
    """

    __slots__ = ("_buffer", "_need", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()
        self._need = HEADER_BYTES

    @property
    def is_mid_frame(self) -> bool:
        """True while part of a frame is held: a link that stays so is a slow drip."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[list[Any]]:
        """Take the next bytes of the stream and return every batch that they complete.

        Raises FrameError for an oversize frame, bytes that are not msgpack, or a payload that is not an array of
        arrays; the decoder must not be used afterwards.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                return []
            data, self._buffer = bytes(self._buffer), bytearray()
        batches: list[list[Any]] = []
        at, size = 0, len(data)
        while size - at >= HEADER_BYTES:
            end = at + HEADER_BYTES + self._frame_bytes(data, at)
            if end > size:
                break
            batches.append(self._batch(data[at + HEADER_BYTES : end]))
            at = end
        self._keep(data, at, size)
        return batches

    def _keep(self, data: bytes, at: int, size: int) -> None:
        self._need = HEADER_BYTES
        if at < size:
            self._buffer += data[at:]
            if size - at >= HEADER_BYTES:
                self._need = HEADER_BYTES + self._frame_bytes(data, at)

    def _frame_bytes(self, data: bytes, at: int) -> int:
        length = int.from_bytes(data[at : at + HEADER_BYTES], "big")
        if length > self.frame_bytes_max:
            raise FrameError(f"a frame of {length} bytes exceeds the limit of {self.frame_bytes_max} bytes")
        return length

    @staticmethod
    def _batch(payload: bytes) -> list[Any]:
        try:
            batch = msgpack.unpackb(payload)
        except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
            raise FrameError(f"a frame of {len(payload)} bytes is not msgpack: {error}") from error
        if type(batch) is not list:
            raise FrameError(f"a frame must hold an array of messages, not {type(batch).__name__}")
        return batch
