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
HANDSHAKE_BYTES_MAX: Final = 64 * 1024
"""Until the handshake is through, a stranger gets this much of our memory and no more."""

BATCH_BYTES: Final = 256 * 1024
"""Several messages share a frame up to this size; a larger frame carries one message.  uvloop reads as much at once."""
BATCH_MESSAGES_MAX: Final = 8192
ELEMENTS_MAX: Final = 1 << 19
"""Arrays, maps, their members and scalars of one frame: room for a page of 100,000 rows, the most that a node sends."""

_PLAIN_ARRAY_MAX: Final = BATCH_MESSAGES_MAX
"""1,023 nested headers that each claim so many elements reserve 64 MiB; a longer array is believed once counted."""
_PACKER_BYTES: Final = 4096
_LIST_ONLY: Final = frozenset({list})

Message = tuple[Any, ...] | list[Any]


class FrameError(Exception):
    """What came over the link is not a frame of this protocol; the link must be closed with this reason."""


def client_frame_bytes_max(value_bytes_max: int) -> int:
    """Return the largest frame that a node takes from a client: one value, its key and what stands around them."""
    return max(value_bytes_max + 65 * 1024, BATCH_BYTES)


def encode(messages: Sequence[Message], frame_bytes_max: int) -> bytes:
    """Return the frames that carry `messages` in order, as few as the limits allow.

    Raises FrameError if a single message exceeds `frame_bytes_max`; nothing was sent then.
    """
    encoder = Encoder(frame_bytes_max)
    for message in messages:
        encoder.add(message)
    return encoder.take()


class Encoder:
    """Packs messages as they come and hands them out as frames: 0.3 µs for a message of ten fields.

    Invariants: `held_bytes` is what `take` would return, give or take the headers; a message that was refused leaves no
    trace; the buffer that a large message needed is given back.
    """

    __slots__ = ("_count", "_frames", "_frames_bytes", "_pack", "_packed_bytes", "_packer", "_view", "frame_bytes_max")

    _count: int
    _packed_bytes: int
    _packer: msgpack.Packer
    _pack: Callable[[Message], object]
    _view: Callable[[], memoryview]

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._renew()

    def add(self, message: Message) -> int:
        """Pack one message and return `held_bytes`.

        Raises FrameError if it exceeds `frame_bytes_max`: it was not added, what was added before stands.  TypeError,
        ValueError or OverflowError say that it cannot be packed; what was added since the last frame is lost with it.
        """
        self._pack(message)
        before, packed = self._packed_bytes, len(self._view())
        self._packed_bytes = packed
        self._count += 1
        if packed > BATCH_BYTES or self._count > BATCH_MESSAGES_MAX:
            self._split(before)
        return self._frames_bytes + self._packed_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that were packed and not taken."""
        return self._frames_bytes + self._packed_bytes

    def take(self) -> bytes:
        """Return the frames of everything that was added, and forget it."""
        if self._count:
            self._seal(self._packer.bytes(), self._count)
            if self._packed_bytes > _PACKER_BYTES * 4:
                self._renew()
            else:
                self._packer.reset()
                self._count = self._packed_bytes = 0
        frames = self._frames
        if not frames:
            return b""
        self._frames, self._frames_bytes = [], 0
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _split(self, before: int) -> None:
        """The last message does not fit into the frame of those before it: close that one, let it start the next."""
        packed, count = self._packer.bytes(), self._count
        message = packed[before:]
        self._renew()
        if count > 1:
            self._seal(packed[:before], count - 1)
        if len(message) >= self.frame_bytes_max:
            raise FrameError(
                f"a message of {len(message)} bytes exceeds the frame limit of {self.frame_bytes_max} bytes; send less"
            )
        self._seal(message, 1)

    def _seal(self, packed: bytes, count: int) -> None:
        array = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
        frame = (len(array) + len(packed)).to_bytes(HEADER_BYTES, "big") + array + packed
        self._frames.append(frame)
        self._frames_bytes += len(frame)

    def _renew(self) -> None:
        self._packer = msgpack.Packer(autoreset=False, buf_size=_PACKER_BYTES)
        self._pack, self._view = self._packer.pack, self._packer.getbuffer
        self._count = self._packed_bytes = 0


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
        if self._buffer:
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
            raise FrameError(f"a frame of {length} bytes exceeds the limit of {self.frame_bytes_max} bytes")
        return length


def _batch(payload: bytes) -> list[list[Any]]:
    try:
        batch = _unpack(payload)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise FrameError(
            f"a frame of {len(payload)} bytes is not msgpack: {str(error) or type(error).__name__}"
        ) from error
    if type(batch) is not list or not _LIST_ONLY.issuperset(map(type, batch)):
        raise FrameError(f"a frame must hold an array of arrays, not {_described(batch)}")
    return batch


def _described(batch: Any) -> str:
    if type(batch) is not list:
        return type(batch).__name__
    return f"one that holds {next(type(item).__name__ for item in batch if type(item) is not list)}"


def _unpack(payload: bytes) -> Any:
    if len(payload) <= BATCH_BYTES:
        try:
            return msgpack.unpackb(payload, max_array_len=_PLAIN_ARRAY_MAX, max_ext_len=0, ext_hook=_refuse_extension)
        except ValueError as error:
            if "max_array_len" not in str(error):
                raise
    _count_elements(payload)
    return msgpack.unpackb(payload, max_array_len=ELEMENTS_MAX, max_ext_len=0, ext_hook=_refuse_extension)


def _refuse_extension(code: int, _: bytes) -> Any:
    raise FrameError(f"extension type {code} is no part of this protocol")


def _count_elements(payload: bytes) -> None:
    """Raise FrameError if `payload` holds, or claims to hold, more than ELEMENTS_MAX elements.

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
        if elements > ELEMENTS_MAX:
            raise FrameError(f"a frame of {end} bytes holds more than {ELEMENTS_MAX} elements")


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
