"""The catalogue of messages: every kind, its fields, and the check that a message has them.

A message is an array whose first element is its kind.  Each kind has exactly one shape (the types of all its elements):
an absent field is its type's empty value, never nil, so one comparison tells a well-formed message from garbage.

Conventions: `id` is the sender's number for the exchange, and the reply repeats it (never positional).  `name` is
`store + 0x00 + key` in UTF-8; `key` is a row key: the partition in 2 bytes, then the name.  Times are milliseconds;
deadlines and issue times are server time (learnt from WELCOME).  Ballots, versions, bodies and entries: see `values`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

PROTOCOL_VERSION: Final = 1

_ARRAYS: Final = frozenset({list, tuple})
_NAMES_MAX: Final = 20

SHAPES: dict[int, tuple[type, ...]] = {}


def _kind(number: int, *fields: type) -> int:
    SHAPES[number] = (int, *fields)
    return number


# -- every link
HELLO: Final = _kind(0, dict)  # first message of the side that dialled: see HELLO_FIELDS
WELCOME: Final = _kind(1, dict)  # the answer: see WELCOME_FIELDS
GOODBYE: Final = _kind(2, str, str)  # code, reason; the link closes after it
PING: Final = _kind(3, int)  # the sender's monotonic time, ns
PONG: Final = _kind(4, int, int)  # that time back, and the answerer's wall clock, ms
PULSE: Final = _kind(5, int, int, int, int, int, int)
# the answer to a node's PING: as PONG, then the answerer's epoch and its load: requests in flight, by how much its
# event loop is late, and how long its disk takes to commit (microseconds)

HELLO_FIELDS: Final = {"protocol": int, "cluster": str, "role": str}
"""role "client" (cluster may be "": any) or "node"; a node adds NODE_FIELDS."""
_IDENTITY_FIELDS: Final = {"name": str, "node_id": int, "incarnation": int, "process": int, "epoch": int}
NODE_FIELDS: Final = {**_IDENTITY_FIELDS, "found": int, "age": int}
"""`found` and `age`: how old its data directory was when the process began, and is now (R1)."""
WELCOME_FIELDS: Final = {"protocol": int, "cluster": str, "time_ms": int, **_IDENTITY_FIELDS}
"""To a client also: nodes [[name, host, port]], preference [[node index per partition, best first]],
stores {name: {field: value}}, limits {field: value}, serving (bool)."""

# -- requests of a client (or of a node that forwards one)
GET: Final = _kind(
    10, int, bytes, int, int, int, int
)  # id, name, strong 0/1, r (a strong read raises it), timeout_ms, explain 0/1
MUTATE: Final = _kind(11, int, bytes, bytes, int, int, int, int, int, int, int, str, bytes, int, int)
# id, name, session (8 bytes), sequence, attempt (from 1), first incomplete, issued_at_ms, deadline_ms,
# action (PUT | DELETE | TRANSACT), check (CHECK_*), etag, content, ttl_ms (0: never), w (raised to Q2: R27)
WRITE: Final = _kind(12, int, bytes, int, int, bytes, int, bytes, bytes)
# id, name, w (0: any), timeout_ms, content (empty: delete), ttl_ms, token (a version, or empty), stamp (or empty)
STAMP: Final = _kind(13, int, bytes, int, bytes)  # id, name, timeout_ms, token -> STAMPED (R25)
SCAN: Final = _kind(14, int, str, str, list, str, int, int)
# id, store, prefix, partitions, after (key, exclusive; "" = from the start), limit, with values 0/1 -> PAGE
STATUS: Final = _kind(15, int)  # id -> RESULT
EXPLAIN: Final = _kind(16, int, bytes)  # id, name -> RESULT
COMPARE: Final = _kind(17, int, int, str)  # id, begin 0/1, store ("": all) -> RESULT: how far the comparison is

PUT, DELETE, TRANSACT = 0, 1, 2
CHECK_NONE, CHECK_ETAG, CHECK_ABSENT = 0, 1, 2

# -- answers to them
ITEM: Final = _kind(20, int, bytes, dict)  # id, body (without content: absent), explanation (empty unless asked for)
APPLIED: Final = _kind(21, int, bytes, int)  # id, version (empty: nothing changed), superseded 0/1
CONFLICT: Final = _kind(22, int, bytes)  # id, current body (without content: absent)
FAILED: Final = _kind(23, int, str, str, int, str)
# id, code (errors.py), outcome, settled 0/1 (the outcome holds for every attempt of this operation), text
RESULT: Final = _kind(24, int, dict)  # id, facts
STAMPED: Final = _kind(25, int, bytes)  # id, stamp: entry flags (1) and version (44), to be sent unchanged in WRITE
PAGE: Final = _kind(26, int, list, int)  # id, [[key, body], ...] in key order (body empty unless asked for), more 0/1

# -- between replicas; every request carries the epoch of the ring (R40)
PREPARE: Final = _kind(30, int, int, bytes, bytes)  # id, epoch, key, ballot
PROMISE: Final = _kind(31, int, bytes, bytes, bytes, bytes, bytes, bytes, bytes, int, bytes, bytes)
# id, accepted ballot, body, window, committed ballot, body, window, overlay entry, settled 0/1, floor, promise before
ACCEPT: Final = _kind(32, int, int, bytes, bytes, bytes, bytes, bytes, bytes, bytes)
# id, epoch, key, ballot, body, window, base version (empty after a prepare), next, ballot to commit first (or empty)
ACCEPTED: Final = _kind(33, int, bytes)  # id, overlay entry later than the record (or empty)
NACK: Final = _kind(34, int, bytes)  # id, the promise that stands in the way (R9)
UNSEEN: Final = _kind(35, int, bytes)  # id, empty: the accept would have passed over an overlay entry (R10)
COMMIT: Final = _kind(
    36, int, bytes, bytes, bytes, bytes
)  # epoch, key, ballot, body (or empty), window: no answer if done
UNKNOWN_BALLOT: Final = _kind(37, bytes, bytes)  # key, ballot: send it again with its record (R12)
BELOW_FLOOR: Final = _kind(38, bytes, bytes)  # key, floor: the commit was refused (R12)
REFUSED: Final = _kind(39, int, str, str)  # id, code, text: nothing was changed (stale epoch, clock skew, disk full)
READ: Final = _kind(40, int, int, bytes, int)  # id, epoch, key, whole state 0/1 -> DIGEST or PROMISE
DIGEST: Final = _kind(41, int, bytes)  # id, digest: see kvnode.core.register
ENTRY: Final = _kind(42, int, int, bytes, bytes)  # id (0: do not answer), epoch, key, overlay entry -> WRITTEN
WRITTEN: Final = _kind(43, int, int)  # id, superseded 0/1
FORWARD: Final = _kind(44, int, list)  # id, a client's request -> FORWARDED
FORWARDED: Final = _kind(45, int, list)  # id, the answer to it
MARKS: Final = _kind(46, int, list)  # epoch, [key, ballot, key, ballot, ...]: commits without records
AGED: Final = _kind(47, int, int)  # the sender's process, the age that its data directory has now (R1): no answer
# -- purge of a tombstone (R35); the ballot is that of the identity round that all N accepted
ANCHOR: Final = _kind(60, int, int, bytes, bytes)  # id, epoch, key, ballot: step 1, note since when it is committed
SETTLE: Final = _kind(61, int, int, bytes, bytes)  # id, epoch, key, ballot: step 2
REMOVE: Final = _kind(62, int, int, bytes, bytes)  # id, epoch, key, ballot: step 3
PURGED: Final = _kind(63, int, int, int)  # id, PURGE_*, milliseconds since it was anchored there
REPAIR: Final = _kind(64, int, int, bytes, bytes)  # like ENTRY, out of an owner's own state: no age is too great (R37)

PURGE_DONE, PURGE_OTHER, PURGE_SOON, PURGE_GONE = 0, 1, 2, 3
"""Done (also before); the key is not that tombstone any more; too soon; the tombstone was removed before."""
HINTS: Final = _kind(70, int, int, list)
# id, epoch, [key, committed ballot, body, window, overlay entry, key, ...]: what the receiver may have missed of up to
# HINTS_MAX keys, by R12 and R29; all of a key but its name may be empty -> HINTED once all that was taken is durable
HINTED: Final = _kind(71, int, int, bytes)  # id, milliseconds to wait before the next HINTS, one HINT_* for each key

HINTS_MAX: Final = 256
HINT_TAKEN, HINT_STALE, HINT_LATER = 0, 1, 2
"""Taken, or not needed; refused for its age, for ever (R37); refused for now."""

# -- between replicas: anti-entropy (R32); see kvnode.service.healing.comparing for what is packed how
TREE_ROOTS: Final = _kind(80, int, int, bytes)  # id, epoch, ranges with their roots -> TREE_DIFFER
TREE_DIFFER: Final = _kind(81, int, int, bytes)
# id, bits of the answerer's trees (0: not built yet), numbers of those that differ
TREE_NODES: Final = _kind(82, int, int, int, int, int, int, int, bytes, bytes)
# id, epoch, copies, partition, level, level below, salt, numbers at the level, shortened nodes below -> TREE_DIFFER
TREE_LIST: Final = _kind(83, int, int, int, int, int, int, int, str, bytes, bytes)
# id, epoch, copies, partition, level, salt, send all that differs 0/1, store, numbers, keys there -> TREE_LACKS
TREE_LACKS: Final = _kind(84, int, int, int, bytes)
# id, records sent, records that changed something, positions of what is lacked
RECORDS: Final = _kind(85, int, int, list)
# id, epoch, [key, committed ballot, body, window, overlay entry, key, ...] -> RECORDED: R12 and R29 apply to each
RECORDED: Final = _kind(86, int, int)  # id, records that changed something
MARK: Final = _kind(87, int, int, list)
# id, epoch, [key, committed ballot, key, ballot, ...] -> MARKED: R12 applies to each, and records follow where needed
MARKED: Final = _kind(88, int, int, bytes)  # id, marks that changed something, numbers of those without a record here

CLIENT_REQUESTS: Final = frozenset({GET, MUTATE, WRITE, STAMP, SCAN, STATUS, EXPLAIN, COMPARE})
CLIENT_ANSWERS: Final = frozenset({ITEM, APPLIED, CONFLICT, FAILED, RESULT, STAMPED, PAGE})
FORWARDABLE: Final = frozenset({GET, MUTATE, WRITE, STAMP, EXPLAIN})


class MessageError(Exception):
    """A message of an unknown kind or a wrong shape; the link must be closed with this reason."""


def check(message: Any) -> None:
    """Raise MessageError unless `message` is an array with exactly the element types of its kind."""
    shape = SHAPES.get(message[0]) if type(message) in _ARRAYS and message and type(message[0]) is int else None
    if shape is None:
        raise MessageError(f"not a message of this protocol: {shown(message)}")
    if tuple(map(type, message)) != shape:
        raise MessageError(
            f"message kind {message[0]} must have the fields {_names(shape[1:])}, not {_names(map(type, message[1:]))}"
        )


def fields_check(kind: str, fields: dict[str, Any], expected: Mapping[str, type]) -> None:
    """Raise MessageError unless `fields` has every expected field with its type; others are let through."""
    for name, expected_type in expected.items():
        if name not in fields:
            raise MessageError(f"{kind} lacks the field {name!r}")
        if type(fields[name]) is not expected_type:
            raise MessageError(f"{kind} has {name} = {shown(fields[name])}, expected {expected_type.__name__}")


def shown(value: Any) -> str:
    """Return a short text of what a stranger sent; its cost does not depend on the size of `value`."""
    if isinstance(value, bytes | str):
        return f"{value[:60]!r}{'...' if len(value) > 60 else ''}"
    if isinstance(value, list | tuple | dict):
        return f"{type(value).__name__} of {len(value)} elements"
    return f"{value!r:.60}"


def _names(types: Iterable[type]) -> str:
    names = [one.__name__ for one in islice(types, _NAMES_MAX)]
    return "[" + ", ".join(names) + (", ...]" if len(names) == _NAMES_MAX else "]")
