"""Ballots, versions and record bodies as bytes that compare the way the protocol orders them.

Decides: the byte layout of what replicas, disks and clients exchange.  Leaves to others: which ballot or version to
make (`kvnode.core.version`) and what a record means (`kvnode.core.record`).

Every ordered thing is a fixed-width big-endian string, so comparing two is one `memcmp` and needs no decoding:

    ballot   (28)  hlc 8 | node id 8 | incarnation 4 | issue number 8                              R5
    version  (44)  sballot 28 | stamp 8 | node or index 8                                          R7
    body           version 44 | expires_at 8 | created_at 8 | content                              R6, R63
    entry          flags 1 | body                                                                  R7 (bit 0: `absent`)
    content        tag 1 | payload:  0 raw bytes, 1 JSON text in UTF-8;  nothing at all = tombstone

An hlc or stamp is 48 bits of milliseconds since 1970 and a 16-bit counter (R2).  `expires_at` and `created_at` are
milliseconds since 1970; expires_at 0 means never.  The empty string stands for "none" and sorts below everything.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NewType

Ballot = NewType("Ballot", bytes)
Version = NewType("Version", bytes)

BALLOT_BYTES = 28
VERSION_BYTES = 44
BODY_HEADER_BYTES = 60

NO_BALLOT = Ballot(b"")
NO_VERSION = Version(b"")
NO_SBALLOT = Ballot(bytes(BALLOT_BYTES))
"""The sballot of a version that is based on no strong change at all."""

TAG_BYTES = 0
TAG_JSON = 1
TOMBSTONE = b""

ENTRY_ABSENT = 1
"""Entry flag: the base of this eventual write was "no such key" (R7)."""

KEY_BYTES_MAX = 1024
STORE_BYTES_MAX = 128
TTL_MS_MAX = 100 * 365 * 86_400_000
"""A hundred years of 365 days (3,153,600,000 s): more is a unit mistake, and the sum with a clock must stay far from 48
bits."""

_TIMES = struct.Struct(">QQ")


def body_pack(version: Version, expires_at_ms: int, created_at_ms: int, content: bytes) -> bytes:
    """Return the body of a record: what a reader sees, without the request window."""
    return version + _TIMES.pack(expires_at_ms, created_at_ms) + content


def body_version(body: bytes) -> Version:
    """Return the version that a body carries."""
    return Version(body[:VERSION_BYTES])


def body_times(body: bytes) -> tuple[int, int]:
    """Return `(expires_at, created_at)` in milliseconds since 1970; expires_at 0 means never."""
    return _TIMES.unpack_from(body, VERSION_BYTES)


def body_content(body: bytes) -> bytes:
    """Return a body's content; empty means tombstone."""
    return body[BODY_HEADER_BYTES:]


def version_stamp_ms(version: Version) -> int:
    """Return the milliseconds of an eventual version's stamp; 0 for a strong one."""
    return int.from_bytes(version[BALLOT_BYTES : BALLOT_BYTES + 6], "big")


def etag_of(version: Version) -> str:
    """Return the text form of a version: opaque, URL-safe, equal iff the versions are equal."""
    return urlsafe_b64encode(version).rstrip(b"=").decode("ascii")


def etag_parse(etag: str) -> Version | None:
    """Return the version that `etag` names, or None if it names none (which every check treats as a mismatch)."""
    try:
        raw = urlsafe_b64decode(etag.encode("ascii") + b"==")
    except (ValueError, UnicodeEncodeError):
        return None
    version = Version(raw)
    if len(raw) != VERSION_BYTES or etag_of(version) != etag:
        return None
    return version
