"""What a caller may say, checked: keys, stores, consistency, quorums, times.  Nothing out of bounds is ever sent.

Decides: the bounds, which word wins (the call, then the store's defaults, then the client's, then the server's settings
of the store) and what the words mean on the wire (section 2 of the protocol; R27: `r` and `w` are raised to what the
consistency needs, never lowered).  Leaves to others: sending.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from kvclient.errors import InvalidRequest
from kvclient.wire.messages import CHECK_ABSENT, CHECK_ETAG, CHECK_NONE
from kvclient.wire.values import KEY_BYTES_MAX, STORE_BYTES_MAX, TTL_MS_MAX

Consistency = Literal["eventual", "quorum", "strong"]
Concurrency = Literal["last-write", "first-write"]
Copies = int | Literal["any"]
Ttl = float | Literal["never"]

ANY: Literal["any"] = "any"
NEVER: Literal["never"] = "never"
ETAG_CHARS_MAX = 64
"""An ETag has 59 characters; what is longer names no version and is a mismatch whatever it says."""
_NO_ETAG = "?"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What the cluster says about one store (WELCOME)."""

    replicas: int = 3
    q1: int = 2
    q2: int = 2
    r: int = 1
    w: int = 1
    consistency: str = "eventual"
    concurrency: str = "last-write"
    ttl_s: float = 0.0

    @property
    def quorum(self) -> int:
        """The replicas that a strong operation needs at most: to learn what stands, or to change it."""
        return max(self.q1, self.q2)

    @property
    def majority(self) -> int:
        """The quorum of `consistency="quorum"`."""
        return self.replicas // 2 + 1


def settings_of(facts: dict[str, Any]) -> StoreSettings:
    """Return the settings that a WELCOME states for one store; what it does not state has its default."""
    known = {field.name for field in fields(StoreSettings)}
    return StoreSettings(**{name: value for name, value in facts.items() if name in known})


@dataclass(frozen=True, slots=True)
class Options:
    """Defaults for every call of a client or a store; None says nothing."""

    consistency: Consistency | None = None
    concurrency: Concurrency | None = None
    r: int | None = None
    w: Copies | None = None
    ttl: Ttl | None = None
    timeout: float | None = None

    def over(self, wider: Options) -> Options:
        """Return these options, completed by those of the client."""
        chosen = {}
        for field in fields(self):
            said = getattr(self, field.name)
            chosen[field.name] = getattr(wider, field.name) if said is None else said
        return Options(**chosen)


class ReadPlan(NamedTuple):
    """How a read is sent."""

    strong: int
    r: int


class WritePlan(NamedTuple):
    """How a write is sent: `strong` as MUTATE with `strong_w` (0: the quorum), otherwise as WRITE with `w` (0: any)."""

    strong: bool
    first_write: bool
    w: int
    strong_w: int


def plan_read(settings: StoreSettings, options: Options) -> ReadPlan:
    """Return how a read with these options is sent.  Raises InvalidRequest."""
    consistency = _consistency(settings, options)
    r = settings.r if options.r is None else options.r
    _check_copies("r", r, settings.replicas)
    if consistency == "strong":
        return ReadPlan(1, 0 if options.r is None else r)  # the store's r is for eventual reads
    return ReadPlan(0, max(r, settings.majority) if consistency == "quorum" else r)


def plan_write(settings: StoreSettings, options: Options) -> WritePlan:
    """Return how a write with these options is sent.  Raises InvalidRequest."""
    consistency = _consistency(settings, options)
    concurrency = settings.concurrency if options.concurrency is None else options.concurrency
    if concurrency not in ("last-write", "first-write"):
        raise InvalidRequest(f"concurrency must be 'last-write' or 'first-write', not {concurrency!r:.80}")
    w = settings.w if options.w is None else options.w
    if w == ANY and isinstance(w, str):
        copies = 0
    else:
        _check_copies("w", w, settings.replicas)
        copies = int(w)
    if consistency == "quorum":
        copies = max(copies, settings.majority)
    first_write = concurrency == "first-write"
    strong_w = 0 if options.w is None else copies  # the store's w is for eventual writes
    return WritePlan(consistency == "strong" or first_write, first_write, copies, strong_w)


def _consistency(settings: StoreSettings, options: Options) -> str:
    consistency = settings.consistency if options.consistency is None else options.consistency
    if consistency not in ("eventual", "quorum", "strong"):
        raise InvalidRequest(f"consistency must be 'eventual', 'quorum' or 'strong', not {consistency!r:.80}")
    return consistency


def _check_copies(name: str, copies: object, replicas: int) -> None:
    if type(copies) is not int:
        wanted = "int or 'any'" if name == "w" else "int"
        raise InvalidRequest(f"{name} must be {wanted}, not {copies!r:.80}")
    if not 1 <= copies <= replicas:
        raise InvalidRequest(f"{name}={copies} must be 1 to {replicas}, the number of replicas of this store")


def check_of(plan: WritePlan, etag: str | None, create: bool) -> int:
    """Return which check a strong write makes: a first-write without an ETag creates.  Raises InvalidRequest."""
    if etag is not None:
        if create:
            raise InvalidRequest("create=True says that the key is absent, etag= that it is there: give one of them")
        if not isinstance(etag, str):
            raise InvalidRequest(f"etag must be str, not {etag!r:.80}")
        return CHECK_ETAG
    return CHECK_ABSENT if create or plan.first_write else CHECK_NONE


def etag_on_wire(etag: str | None) -> str:
    """Return an ETag that is safe to send: one that cannot be parsed stays a mismatch, whatever it held."""
    if etag is None:
        return ""
    return etag if len(etag) <= ETAG_CHARS_MAX and etag.isascii() else _NO_ETAG


def ttl_ms_of(ttl: Ttl, *, name: str = "ttl") -> int:
    """Return a time to live in milliseconds; 0 is never.  Raises InvalidRequest."""
    if isinstance(ttl, str) and ttl == NEVER:
        return 0
    ms = seconds(name, ttl, TTL_MS_MAX / 1000) * 1000
    return max(1, round(ms))


def timeout_s_of(timeout: float, timeout_s_max: float) -> float:
    """Return a timeout in seconds.  Raises InvalidRequest."""
    return seconds("timeout", timeout, timeout_s_max)


def seconds(name: str, given: object, most: float) -> float:
    """Return a number of seconds above 0.  Raises InvalidRequest."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InvalidRequest(f"{name} must be a number of seconds, not {given!r:.80}")
    if not 0 < given <= most:  # also refuses NaN
        raise InvalidRequest(f"{name}={given} must be above 0 and at most {most:.15g} seconds")
    return float(given)


def text(given: object, what: str) -> str:
    """Return `given` if it is text that can be sent.  Raises InvalidRequest."""
    if not isinstance(given, str):
        raise InvalidRequest(f"{what} must be str, not {given!r:.80}")
    _utf8(what, given)
    return given


def store_prefix(store: object) -> bytes:
    """Return what the names of a store's keys begin with.  Raises InvalidRequest."""
    raw = _utf8("the name of a store", text(store, "the name of a store"))
    if not 0 < len(raw) <= STORE_BYTES_MAX:
        raise InvalidRequest(f"the name of a store must have 1 to {STORE_BYTES_MAX} bytes of UTF-8, not {len(raw)}")
    if 0 in raw:
        raise InvalidRequest(f"the name {store!r:.80} of a store must not hold the character NUL")
    return raw + b"\0"


def key_bytes(key: object) -> bytes:
    """Return a key in UTF-8.  Raises InvalidRequest: keys are never converted from other types."""
    raw = _utf8("a key", text(key, "a key"))
    if not 0 < len(raw) <= KEY_BYTES_MAX:
        raise InvalidRequest(f"a key must have 1 to {KEY_BYTES_MAX} bytes of UTF-8, not {len(raw)}: {key!r:.80}")
    return raw


def prefix_check(prefix: object, what: str = "a prefix") -> str:
    """Return a part of a key, which may be empty, that a scan may ask for.  Raises InvalidRequest."""
    checked = text(prefix, what)
    if len(checked.encode()) > KEY_BYTES_MAX:
        raise InvalidRequest(f"{what} must have at most {KEY_BYTES_MAX} bytes of UTF-8: {checked!r:.80}")
    return checked


def _utf8(what: str, given: str) -> bytes:
    try:
        return str.encode(given)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{what} is not valid Unicode: {given!r:.80}: {error.reason}") from error
