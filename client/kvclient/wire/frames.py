"""Frames: a 4-byte big-endian length, then one msgpack array of messages.

Decides: where a frame ends, how large it may be, how much memory its content may take, and what is not a frame.  Leaves
to others: what a message means (`messages`) and every socket.

All messages that a loop turn produced for one link leave in one frame, unless they exceed `BATCH_BYTES`; the receiver
unpacks a frame with one call.  A frame is refused by its length before any of it is buffered, so a peer can make us
hold at most `frame_bytes_max` bytes.

Memory of a decoded frame.  One byte can say "an empty map", which takes 72 bytes, so length alone bounds little.  Up
to `BATCH_BYTES` this is let through: at most 72 * 256 KiB = 18 MiB, for one link at a time.  A longer frame exists to
carry large values, not many things: its elements are counted first, and more than `ELEMENTS_MAX` are refused.  So
decoding takes at most the frame's own bytes and 18 MiB, or its own bytes and 90 * 2^19 = 45 MiB.  An array is allocated
when its header is read, so headers that claim more than they hold are bounded too (`_PLAIN_ARRAY_MAX`), and nesting by
msgpack itself (1,024 levels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

HEADER_BYTES: Final = 4
_HTTP: Final = 0x48545450
"""The length that an answer in HTTP would begin with, whatever it says: longer than any frame."""
HANDSHAKE_BYTES_MAX: Final = 64 * 1024
"""Until the handshake is through, a stranger gets this much of our memory and no more."""

BATCH_BYTES: Final = 256 * 1024
"""Several messages share a frame up to this size; a larger frame carries one message.  uvloop reads as much at once."""
BATCH_MESSAGES_MAX: Final = 8192
ELEMENTS_MAX: Final = 1 << 19
"""Arrays, maps, their members and scalars of one frame: room for a page of 100,000 rows, the most that a node sends."""

_PLAIN_ARRAY_MAX: Final = BATCH_MESSAGES_MAX
"""1,023 nested headers that each claim so many elements reserve 64 MiB; a longer array is believed once counted."""
_LIST_ONLY: Final = frozenset({list})
_UNPACK_ERRORS: Final = (ValueError, msgpack.exceptions.UnpackException)

Message = tuple[Any, ...] | list[Any]


class FrameError(Exception):
    """What came over the link is not a frame of this protocol; the link must be closed with this reason."""


def client_frame_bytes_max(value_bytes_max: int) -> int:
    """Return the largest frame that a node takes from a client: one value, its key and what stands around them."""
    return max(value_bytes_max + 65 * 1024, BATCH_BYTES)


pack: Final[Callable[[Message], bytes]] = msgpack.Packer(autoreset=True).pack
"""Return one message as bytes, to be framed by `join`.  Raises TypeError, ValueError or OverflowError."""


def encode(messages: Sequence[Message], frame_bytes_max: int) -> bytes:
    """Return the frames that carry `messages` in order, as few as the limits allow.

    Raises FrameError if a single message exceeds `frame_bytes_max`; nothing was sent then.
    """
    packed = [pack(message) for message in messages]
    for one in packed:
        fits_check(len(one), frame_bytes_max)
    return join(packed, sum(map(len, packed)))


def fits_check(packed_bytes: int, frame_bytes_max: int) -> None:
    """Raise FrameError if one packed message exceeds the receiver's limit."""
    if packed_bytes >= frame_bytes_max:  # the array around it takes one byte more
        raise FrameError(f"a message of {packed_bytes} bytes exceeds the frame limit of {frame_bytes_max} bytes")


def join(packed: list[bytes], packed_bytes: int) -> bytes:
    """Return the frames that carry packed messages in order: one frame, unless they exceed the limits of a batch.

    `packed_bytes` is the sum of their lengths.
    """
    count = len(packed)
    if packed_bytes < BATCH_BYTES and count <= BATCH_MESSAGES_MAX:
        return _header(packed_bytes, count) + b"".join(packed)
    parts: list[bytes] = []
    start = group_bytes = 0
    for at, one in enumerate(packed):
        if at > start and (group_bytes + len(one) >= BATCH_BYTES or at - start == BATCH_MESSAGES_MAX):
            parts += (_header(group_bytes, at - start), *packed[start:at])
            start, group_bytes = at, 0
        group_bytes += len(one)
    return b"".join((*parts, _header(group_bytes, count - start), *packed[start:]))


def _header(packed_bytes: int, count: int) -> bytes:
    """Return a frame's length and the header of its array of `count` messages."""
    if count < 16:
        return ((packed_bytes + 1) << 8 | 0x90 | count).to_bytes(HEADER_BYTES + 1, "big")
    return ((packed_bytes + 3) << 24 | 0xDC << 16 | count).to_bytes(HEADER_BYTES + 3, "big")


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

    @property
    def held_bytes(self) -> int:
        """Bytes of the incomplete frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[list[list[Any]]]:
        """Take the next bytes of the stream and return every batch that they complete.

        Raises FrameError for an oversize frame, bytes that are not msgpack, too many elements, or a payload that is not
        an array of arrays; the decoder must not be used afterwards.
        """
        if not self._buffer:
            length = int.from_bytes(data[:HEADER_BYTES], "big")
            if length == len(data) - HEADER_BYTES and length <= self.frame_bytes_max:
                return [_batch(data[HEADER_BYTES:])]
        else:
            self._buffer += data
            if len(self._buffer) < self._need:
                return []
            data, self._buffer = bytes(self._buffer), bytearray()
        batches: list[list[list[Any]]] = []
        at, size = 0, len(data)
        while size - at >= HEADER_BYTES:
            end = at + HEADER_BYTES + self._frame_bytes(data, at)
            if end > size:
                break
            batches.append(_batch(data[at + HEADER_BYTES : end]))
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
            if length == _HTTP:
                raise FrameError("it speaks HTTP, as the gateway does: give the address of a node")
            raise FrameError(f"a frame of {length} bytes exceeds the limit of {self.frame_bytes_max} bytes")
        return length


def _batch(payload: bytes) -> list[list[Any]]:
    try:
        if len(payload) <= BATCH_BYTES:
            batch = msgpack.unpackb(payload, max_array_len=_PLAIN_ARRAY_MAX, max_ext_len=0)
        else:
            batch = _unpack_counted(payload)
    except _UNPACK_ERRORS as error:
        batch = _unpack_again(payload, error)
    if type(batch) is not list or not _LIST_ONLY.issuperset(map(type, batch)):
        raise FrameError(f"a frame must hold an array of arrays, not {_described(batch)}")
    return batch


def _unpack_again(payload: bytes, error: Exception) -> Any:
    """Unpack a short frame that holds a long array; anything else that was wrong with it is a FrameError."""
    try:
        if len(payload) > BATCH_BYTES or "max_array_len" not in str(error):
            raise error
        return _unpack_counted(payload)
    except _UNPACK_ERRORS as cause:
        text = str(cause) or type(cause).__name__
        raise FrameError(f"a frame of {len(payload)} bytes is not msgpack: {text}") from cause


def _described(batch: Any) -> str:
    if type(batch) is not list:
        return type(batch).__name__
    return f"one that holds {next(type(item).__name__ for item in batch if type(item) is not list)}"


def _unpack_counted(payload: bytes) -> Any:
    _count_elements(payload, ELEMENTS_MAX)
    return msgpack.unpackb(payload, max_array_len=ELEMENTS_MAX, max_ext_len=0)


def _count_elements(payload: bytes, elements_max: int) -> None:
    """Raise FrameError if `payload` holds, or claims to hold, more than `elements_max` elements.

    It follows the headers without building anything: a few steps for a frame that is one large value.
    """
    at, end, open_elements, elements = 0, len(payload), 1, 1
    while open_elements and at < end:
        length_bytes, skip, members = _LAYOUT[payload[at]]
        at += 1
        if length_bytes:
            length = int.from_bytes(payload[at : at + length_bytes], "big")
            at += length_bytes
            if members:
                members *= length
            else:
                skip += length
        at += skip
        open_elements += members - 1
        elements += members
        if elements > elements_max:
            raise FrameError(f"a frame of {end} bytes holds more than {elements_max} elements")


def _layout(first: int) -> tuple[int, int, int]:
    """Return for a value's first byte: bytes of a length that follows, bytes to skip, members (per unit of length)."""
    if first <= 0x7F or first >= 0xE0:
        return 0, 0, 0
    if first <= 0x8F:
        return 0, 0, 2 * (first & 0x0F)
    if first <= 0x9F:
        return 0, 0, first & 0x0F
    if first <= 0xBF:
        return 0, first & 0x1F, 0
    return _LONG_LAYOUT.get(first, (0, 0, 0))


_LONG_LAYOUT: Final = {
    0xC4: (1, 0, 0), 0xC5: (2, 0, 0), 0xC6: (4, 0, 0),  # bytes
    0xC7: (1, 1, 0), 0xC8: (2, 1, 0), 0xC9: (4, 1, 0),  # extensions
    0xCA: (0, 4, 0), 0xCB: (0, 8, 0),  # floats
    0xCC: (0, 1, 0), 0xCD: (0, 2, 0), 0xCE: (0, 4, 0), 0xCF: (0, 8, 0),  # unsigned integers
    0xD0: (0, 1, 0), 0xD1: (0, 2, 0), 0xD2: (0, 4, 0), 0xD3: (0, 8, 0),  # signed integers
    0xD4: (0, 2, 0), 0xD5: (0, 3, 0), 0xD6: (0, 5, 0), 0xD7: (0, 9, 0), 0xD8: (0, 17, 0),  # fixed extensions
    0xD9: (1, 0, 0), 0xDA: (2, 0, 0), 0xDB: (4, 0, 0),  # text
    0xDC: (2, 0, 1), 0xDD: (4, 0, 1),  # arrays
    0xDE: (2, 0, 2), 0xDF: (4, 0, 2),  # maps
}  # fmt: skip
_LAYOUT: Final = tuple(_layout(first) for first in range(256))
