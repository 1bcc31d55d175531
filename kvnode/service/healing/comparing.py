"""What two replicas tell each other of a range's keys when their trees differ, and who then sends what to whom.

Decides: the packed form of roots, numbers and keys in anti-entropy's messages, and which of two states a key must get.
Leaves to others: walks (`core.merkle`), the conversation (`anti_entropy`), whether a record changes anything (R12,
R29).

    root     copies 1 | partition 2 | root 8
    number   2
    node     4, shortened with the comparison's salt
    key      position 8 | item 4, shortened | hybrid time of the visible version's sballot 8 | its stamp 8

Who has the later visible version by those two times sends; with equal times both do.  That is a guess which saves
bytes, no decision: the receiver's rules decide (R12, R29).  Where nothing came of it, the next try sends both ways.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from kvclient.wire.messages import MessageError
from kvclient.wire.values import BALLOT_BYTES, NO_BALLOT, VERSION_BYTES
from kvnode.core.record import Image, entry_version

_ROOT = struct.Struct(">BHQ")
_KEY = struct.Struct(">QIQQ")
_NUMBERS = 1 << 16


class Listed(NamedTuple):
    """What the other node has of a key."""

    item: int
    times: tuple[int, int]


def pack_roots(roots: Iterable[tuple[int, int, int]]) -> bytes:
    """Return (copies, partition, root) of many ranges as bytes."""
    return b"".join([_ROOT.pack(*root) for root in roots])


def unpack_roots(packed: bytes) -> list[tuple[int, int, int]]:
    """Return what `pack_roots` packed.  Raises MessageError."""
    _check(packed, _ROOT.size)
    if len(packed) > _NUMBERS * _ROOT.size:
        raise MessageError(f"{len(packed) // _ROOT.size} roots, where {_NUMBERS} can be told apart")
    return list(_ROOT.iter_unpack(packed))


def pack_numbers(numbers: list[int]) -> bytes:
    """Return numbers below 65,536 as bytes."""
    return struct.pack(f">{len(numbers)}H", *numbers)


def unpack_numbers(packed: bytes, count: int = _NUMBERS) -> list[int]:
    """Return what `pack_numbers` packed, numbers below `count`.  Raises MessageError."""
    _check(packed, 2)
    numbers = list(struct.unpack(f">{len(packed) // 2}H", packed))
    if numbers and max(numbers) >= count:
        raise MessageError(f"number {max(numbers)} of {count}")
    return numbers


def pack_nodes(shortened: list[int]) -> bytes:
    """Return shortened nodes as bytes."""
    return struct.pack(f">{len(shortened)}I", *shortened)


def unpack_nodes(packed: bytes) -> list[int]:
    """Return what `pack_nodes` packed.  Raises MessageError."""
    _check(packed, 4)
    return list(struct.unpack(f">{len(packed) // 4}I", packed))


def pack_positions(positions: Iterable[int]) -> bytes:
    """Return positions as bytes."""
    return b"".join([position.to_bytes(8, "big") for position in positions])


def unpack_positions(packed: bytes) -> list[int]:
    """Return what `pack_positions` packed.  Raises MessageError."""
    _check(packed, 8)
    return list(struct.unpack(f">{len(packed) // 8}Q", packed))


def pack_key(position: int, shortened: int, image: Image) -> bytes:
    """Return what is told of one key."""
    return _KEY.pack(position, shortened, *times_of(image))


def unpack_keys(packed: bytes) -> dict[int, Listed]:
    """Return what was told of many keys, by position.  Raises MessageError."""
    _check(packed, _KEY.size)
    return {position: Listed(item, (base, stamp)) for position, item, base, stamp in _KEY.iter_unpack(packed)}


def _check(packed: bytes, size: int) -> None:
    if len(packed) % size:
        raise MessageError(f"{len(packed)} bytes are no list of {size} bytes each")


def times_of(image: Image) -> tuple[int, int]:
    """Return the times that order visible versions as far as they go: of the sballot, and the stamp."""
    version = max(image.committed.body[:VERSION_BYTES], entry_version(image.overlay))
    return int.from_bytes(version[:8], "big"), int.from_bytes(version[BALLOT_BYTES : BALLOT_BYTES + 8], "big")


def record_of(key: bytes, image: Image) -> list[bytes]:
    """Return what another replica gets of a key: the committed record and the overlay, never a proposal (R13), and no
    settled tombstone (R38)."""
    if image.settled or not image.committed_ballot:
        return [key, NO_BALLOT, b"", b"", image.overlay]
    return [key, image.committed_ballot, image.committed.body, image.committed.window, image.overlay]
