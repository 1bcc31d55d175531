"""A second look at RocksDB's write-ahead logs before it replays them (R46).

Decides: whether the logs are whole up to a torn tail.  RocksDB checks each record's CRC, but where a header reads as
zeros (a page that never reached the disk, or was wiped) it takes the rest of the block for padding and goes on behind
it, and it replays a newer log although an older one was cut short: acknowledged rows in between are gone without a
word.  Both leave a gap in the sequence numbers, and that is what is looked for here.  And where a length in the last
block is damaged so that the record seems to go on behind the end of the file, it takes everything from there on for a
torn tail: so the CRC is asked whether the record is whole after all.  Leaves to others: the other records' CRCs and
everything else, to RocksDB.

Source: "Write Ahead Log File Format" in RocksDB's wiki.  A log is blocks of 32 KiB; a record is crc 4 | length 2 |
type 1 | payload, little-endian, never starting in the last 6 bytes of a block; a batch is one FULL record or a FIRST,
some MIDDLE and a LAST, and begins with sequence number 8 | count 4, which may themselves be split.  It counts once its
LAST is there: a batch whose end was torn off is none, and the log of the next start begins with its number again.
"""

from __future__ import annotations

import struct
from pathlib import Path

from crc32c import crc32c

from kvnode.storage.engine import DamagedRow

_BLOCK_BYTES = 32 * 1024
_HEADER = struct.Struct("<IHB")
_BATCH = struct.Struct("<QI")
_CRC_MASK_DELTA = 0xA282EAD8
"""A stored CRC is rotated by 15 bits, plus this: RocksDB checks files that hold CRCs of their own."""
_FULL, _FIRST, _LAST = 1, 2, 4


def check_logs(folder: Path) -> None:
    """Raise DamagedRow if the logs in `folder` have a hole; a torn end of the newest one is none."""
    following = 0
    for log in sorted(folder.glob("*.log"), key=lambda log: int(log.stem)):
        following = _check_log(log, log.read_bytes(), following)


def _check_log(log: Path, data: bytes, following: int) -> int:
    """Return the sequence number that must follow the log's last batch (0: not known yet)."""
    at, head = 0, b""
    while at + _HEADER.size <= len(data):
        left = _BLOCK_BYTES - at % _BLOCK_BYTES
        if left < _HEADER.size:
            at += left
            continue
        _, length, kind = _HEADER.unpack_from(data, at)
        if kind == 0 and length == 0:
            if data[at:].strip(b"\0"):
                _refuse(log, at, "zeros stand where a record should, and records follow")
            return following
        if kind > _LAST:  # RocksDB would take it for what a recycled log held before, or never come back from it
            _refuse(log, at, f"a record is of kind {kind}, which is never written here")
        end = at + _HEADER.size + length
        if end > len(data):  # torn tail; if a newer log follows, its first batch will tell
            if _is_whole(data, at):
                _refuse(log, at, "the length of a record is wrong")
            return following
        start = at + _HEADER.size
        if kind in (_FULL, _FIRST):
            head = b""
        head += data[start : min(end, start + _BATCH.size)]  # a batch's header may be spread over its fragments
        if kind in (_FULL, _LAST) and len(head) >= _BATCH.size:
            sequence, count = _BATCH.unpack_from(head)
            if following and sequence != following:
                _refuse(log, at, f"batch {sequence} follows where {following} should")
            following = sequence + count
        at = end
    return following


def _is_whole(data: bytes, at: int) -> bool:
    """Return whether the record at `at` is there with all of its payload, whatever its length says.

    Of a torn record the end is missing, so its CRC, which covers kind and payload, fits nothing that is there (but for
    one in 100,000 by chance, and then the node only refuses to start).
    """
    stored, _, kind = _HEADER.unpack_from(data, at)
    crc = crc32c(bytes((kind,)))
    for byte in range(at + _HEADER.size, len(data)):
        crc = crc32c(data[byte : byte + 1], crc)
        if (((crc >> 15) | ((crc << 17) & 0xFFFFFFFF)) + _CRC_MASK_DELTA) & 0xFFFFFFFF == stored:
            return True
    return False


def _refuse(log: Path, at: int, what: str) -> None:
    raise DamagedRow(f"the write-ahead log {log} is damaged at byte {at} ({what}), so acknowledged rows may be missing")
