"""Rows: an `Image` as bytes on disk and back, each row with its own checksum (R46).

Decides: the layout of a row and of a meta value, and what is refused as damaged.  Leaves to others: where rows lie
(`rocks`, `memory`) and what they mean (`kvnode.core`).  All integers are big-endian:

    row      format 1 | flags 1 | lengths 5 * 4 | parts | crc 4
    parts    promised? 28 | accepted ballot? 28 | committed ballot? 28 | anchored? 8
             | accepted body | accepted window | committed body | committed window | overlay entry
    flags    bit 0 promised, bit 1 accepted, bit 2 committed: the ballot is there; bit 3: settled; bit 4: the time
             since which a tombstone is anchored is there
    lengths  of the five parts of variable size, in their order
    meta     format 1 | value | crc 4

The CRC32C covers the row key, then everything before the crc: a row that was written, or is read, under another key is
as damaged as one with a flipped bit.  Nothing may follow the crc.

One row of 100 bytes is encoded in about 1 us and decoded in as much, so neither needs a cache of encoded rows.
"""

from __future__ import annotations

import struct
from typing import NoReturn

from crc32c import crc32c

from kvclient.wire.values import BALLOT_BYTES, NO_BALLOT
from kvnode.core.record import NO_ENTRY, NO_RECORD, Entry, Image, Record
from kvnode.storage.engine import DamagedRow

ROW_FORMAT = 1
META_FORMAT = 2
META_PREFIX = b"\xff\xff"
"""Meta values share the key space of rows; a row key starts with its partition, which is always less than this."""

_HEAD = struct.Struct(">BBIIIII")
_CRC = struct.Struct(">I")
_HEAD_BYTES, _CRC_BYTES = _HEAD.size, _CRC.size
_BALLOTS = tuple(struct.Struct(f"{BALLOT_BYTES}s" * count) for count in range(4))
_ROW_BYTES_MIN = _HEAD_BYTES + _CRC_BYTES
_ANCHOR = struct.Struct(">Q")
_PROMISED, _ACCEPTED, _COMMITTED, _SETTLED, _ANCHORED = 1, 2, 4, 8, 16
_FLAGS = _PROMISED | _ACCEPTED | _COMMITTED | _SETTLED | _ANCHORED
_THREE, _QUIET = _PROMISED | _ACCEPTED | _COMMITTED, _PROMISED | _COMMITTED
_unpack = _HEAD.unpack_from
_new = tuple.__new__
"""A named tuple's own constructor takes twice as long, for two of them in each row."""


def encode(key: bytes, image: Image) -> bytes:
    """Return the row that holds `image` under the row key `key`."""
    promised, accepted_ballot, accepted, committed_ballot, committed, overlay, settled, anchored_ms = image
    accepted_body, accepted_window = accepted
    committed_body, committed_window = committed
    flags = (
        (_PROMISED if promised else 0)
        | (_ACCEPTED if accepted_ballot else 0)
        | (_COMMITTED if committed_ballot else 0)
        | (_SETTLED if settled else 0)
        | (_ANCHORED if anchored_ms else 0)
    )
    head = _HEAD.pack(
        ROW_FORMAT,
        flags,
        len(accepted_body),
        len(accepted_window),
        len(committed_body),
        len(committed_window),
        len(overlay),
    )
    parts = (accepted_body, accepted_window, committed_body, committed_window, overlay)
    anchor = _ANCHOR.pack(anchored_ms) if anchored_ms else b""
    content = b"".join((head, promised, accepted_ballot, committed_ballot, anchor, *parts))
    return content + _CRC.pack(crc32c(content, crc32c(key)))


def decode(key: bytes, row: bytes) -> Image:
    """Return the image that a row holds.  Raises DamagedRow for anything that `encode` did not return for this key."""
    _check_crc(key, row, _ROW_BYTES_MIN)
    form, flags, accepted_bytes, accepted_window, committed_bytes, committed_window, overlay_bytes = _unpack(row)
    if form != ROW_FORMAT or flags & ~_FLAGS:
        refuse(key, f"has format {form} and flags {flags}, which this version does not know")
    ballots = _BALLOTS[(flags & 1) + (flags >> 1 & 1) + (flags >> 2 & 1)]
    anchor_at = _HEAD_BYTES + ballots.size
    accepted_at = anchor_at + (_ANCHOR.size if flags & _ANCHORED else 0)
    committed_at = accepted_at + accepted_bytes + accepted_window
    overlay_at = committed_at + committed_bytes + committed_window
    if overlay_at + overlay_bytes + _CRC_BYTES != len(row):
        refuse(key, f"has {len(row)} bytes, which is not what its head says")
    found = ballots.unpack_from(row, _HEAD_BYTES)
    if flags & _THREE == _QUIET:  # what most keys are, most of the time
        promised, committed_ballot = found
        accepted_ballot = NO_BALLOT
    else:
        left = iter(found)
        promised = next(left) if flags & _PROMISED else NO_BALLOT
        accepted_ballot = next(left) if flags & _ACCEPTED else NO_BALLOT
        committed_ballot = next(left) if flags & _COMMITTED else NO_BALLOT
    accepted = _record(row, accepted_at, accepted_bytes, committed_at) if committed_at > accepted_at else NO_RECORD
    committed = _record(row, committed_at, committed_bytes, overlay_at) if overlay_at > committed_at else NO_RECORD
    overlay = Entry(row[overlay_at:-_CRC_BYTES]) if overlay_bytes else NO_ENTRY
    anchored_ms = _ANCHOR.unpack_from(row, anchor_at)[0] if flags & _ANCHORED else 0
    is_settled = flags & _SETTLED != 0
    parts = (promised, accepted_ballot, accepted, committed_ballot, committed, overlay, is_settled, anchored_ms)
    return _new(Image, parts)


def _record(row: bytes, at: int, body_bytes: int, end: int) -> Record:
    middle = at + body_bytes
    return _new(Record, (row[at:middle], row[middle:end]))


def meta_key(name: str) -> bytes:
    """Return the key under which the meta value `name` is stored."""
    return META_PREFIX + name.encode()


def meta_name(key: bytes) -> str:
    """Return the name of the meta value that is stored under `key`."""
    return key[len(META_PREFIX) :].decode()


def encode_meta(key: bytes, value: bytes) -> bytes:
    """Return what is stored for a meta value under `key`, as `meta_key` returned it."""
    content = META_FORMAT.to_bytes(1, "big") + value
    return content + _CRC.pack(crc32c(content, crc32c(key)))


def decode_meta(key: bytes, row: bytes) -> bytes:
    """Return a meta value.  Raises DamagedRow for anything that `encode_meta` did not return for this key."""
    _check_crc(key, row, 1 + _CRC_BYTES)
    if row[0] != META_FORMAT:
        refuse(key, f"has format {row[0]}, which this version does not know")
    return row[1:-_CRC_BYTES]


def _check_crc(key: bytes, row: bytes, bytes_min: int) -> None:
    if len(row) < bytes_min:
        refuse(key, f"has {len(row)} bytes and needs at least {bytes_min}")
    if crc32c(row[:-_CRC_BYTES], crc32c(key)) != _CRC.unpack_from(row, len(row) - _CRC_BYTES)[0]:
        refuse(key, "fails its CRC32C")


def refuse(key: bytes, what: str) -> NoReturn:
    """Raise DamagedRow for the row of `key`."""
    raise DamagedRow(f"the row of {describe(key)} {what}")


def describe(key: bytes) -> str:
    """Return a row key as people read it: store, key and partition, or the name of a meta value."""
    if key.startswith(META_PREFIX):
        return f"meta value {key[2:].decode('utf-8', 'replace')!r}"
    store, _, name = key[2:].partition(b"\0")
    shown = f"key {name.decode('utf-8', 'replace')!r} of store {store.decode('utf-8', 'replace')!r}"
    return f"{shown} (partition {int.from_bytes(key[:2], 'big')})"
