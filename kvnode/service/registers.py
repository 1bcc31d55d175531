"""The registers in memory: a bounded cache over the engine's rows.

Decides: which rows stay decoded, and what must be kept of one that leaves.  Leaves to others: the rules of a register.

Bounds: `registers_max` rows and `register_bytes_max` bytes.  A row leaves by second chance (used again since it was
loaded or last passed), never while it has rows on their way to disk.  What leaves takes nothing with it that matters:
- a commit that is only in memory is written first (it need not be synced: R12).  Commits are written from
  `_UNWRITTEN_MAX` on, oldest first and many at a time, so that it is writers who pay for them and not whoever reads
  next; a key that is written again before that never needs it, for its next row carries the commit;
- a promise that no row carries is folded into `promise_base` of its partition, which every row loaded later starts
  from; promising more than was asked can only refuse (R11).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

from kvclient.wire.messages import MessageError
from kvclient.wire.values import BODY_HEADER_BYTES, NO_BALLOT, VERSION_BYTES, Ballot
from kvnode.core.record import EMPTY_IMAGE, Image, Record
from kvnode.core.register import Register, Verdict
from kvnode.service.undecided import Undecided
from kvnode.storage.engine import Engine

_FLOORS = "floor/"
"""Meta values: the floor of a partition, by its number."""
_NEVER = bytes(8)
_EVICT_STEPS_MAX = 8
"""Rows looked at per load: the cache may stand over its bound for a moment, but no request pays for a full pass."""
_UNWRITTEN_MAX = 16_384
"""Commits that are only in memory: a row for each of them is what a shutdown has to write."""
_WRITTEN_TOGETHER = 64
"""Rows written when there are more: half a millisecond of one turn."""
_ROW_OVERHEAD_BYTES = 600
"""Python objects of one decoded row, measured with `sys.getsizeof` over an accepted and a committed record."""


class CachedRegister(Register):
    """A register with what the cache notes of it."""

    __slots__ = ("is_dirty", "is_used", "key", "size_bytes")

    def __init__(self, key: bytes, image: Image, promised: Ballot, floor: Ballot) -> None:
        Register.__init__(self, image, promised, floor)
        self.key = key
        self.is_used = False
        self.is_dirty = False
        """True while it has a commit that no row carries."""
        self.size_bytes = _size_bytes(image)


class Registers:
    """Row key -> Register, loaded on demand."""

    def __init__(
        self,
        engine: Engine,
        registers_max: int,
        register_bytes_max: int,
        undecided_max: int,
        restart_promise: Ballot,
    ) -> None:
        self._engine = engine
        self._registers_max = registers_max
        self._register_bytes_max = register_bytes_max
        self._cache: OrderedDict[bytes, CachedRegister] = OrderedDict()  # a plain dict finds its first key in O(n)
        self._total_bytes = 0
        self._dirty: OrderedDict[bytes, CachedRegister] = OrderedDict()
        """Those with a commit that no row carries, the oldest such commit first."""
        self._restart_promise = restart_promise
        self.promise_base: dict[bytes, Ballot] = {}
        self.is_row_key: Callable[[bytes], bool] = _any
        """Says whether a key may name a row: another node may send anything."""
        self.on_change: Callable[[bytes, Image, Image], None] = _nobody
        """Told of every change of a committed record, an overlay or `settled`: key, image before, image after."""
        self.floors = {_partition_of(name): Ballot(floor) for name, floor in engine.scan_meta(_FLOORS)}
        """The floor of each partition that has one (R36), as it is on disk or on its way there."""
        self.undecided = Undecided(undecided_max)
        self.on_mortal: Callable[[bytes], None] = _nobody_listens
        """Hears of keys whose committed record, or eventual write, is a tombstone or expires."""

    def get(self, key: bytes) -> CachedRegister:
        """Return the register of a row key.  Raises DamagedRow, and MessageError for what is no row key."""
        register = self._cache.get(key)
        if register is None:
            return self._load(key)
        register.is_used = True
        return register

    def peek(self, key: bytes) -> Register | None:
        """Return the register if it is in memory, without using it."""
        return self._cache.get(key)

    def known(self, key: bytes) -> Image:
        """Return what this node knows of a key, without keeping it in memory.  Raises DamagedRow."""
        register = self._cache.get(key)
        return register.image if register is not None else self._engine.load(key) or EMPTY_IMAGE

    def shown(self, key: bytes) -> Image:
        """Return what this node shows of a key (R6), without keeping it in memory.  Raises DamagedRow."""
        register = self._cache.get(key)
        return register.shown if register is not None else self._engine.load(key) or EMPTY_IMAGE

    def _load(self, key: bytes) -> CachedRegister:
        if not self.is_row_key(key):
            raise MessageError(f"a key of {len(key)} bytes is not the partition and name of any key")
        promised = self._restart_promise
        if self.promise_base:
            promised = max(promised, self.promise_base.get(key[:2], NO_BALLOT))
        floor = self.floors.get(key[:2], NO_BALLOT)
        register = CachedRegister(key, self._engine.load(key) or EMPTY_IMAGE, promised, floor)
        self._total_bytes += register.size_bytes
        self._evict()  # before it is in the cache itself: its caller is about to use it
        self._cache[key] = register
        return register

    def commit(self, key: bytes, ballot: Ballot, record: Record) -> tuple[Register, Verdict]:
        """Mark a chosen ballot, in memory: no row need carry it before the key's next one (R12).

        A record that this replica did not hold is written, unsynced: scans go over rows, and a repair should last.
        """
        register = self.get(key)
        before = register.image
        was_held = before.accepted_ballot == ballot
        verdict = register.commit(ballot, record)
        if verdict is Verdict.DONE:
            self.on_change(key, before, register.image)
            self.undecided.forget(key)
            if is_mortal(register.image.committed.body):
                self.on_mortal(key)
            if not register.is_dirty:
                register.is_dirty = True
                self._dirty[key] = register
            if not was_held:
                self._write(register)
            elif len(self._dirty) > _UNWRITTEN_MAX:
                self._write_oldest(_WRITTEN_TOGETHER)
        return register, verdict

    def on_put(self, register: CachedRegister) -> None:
        """Note that a row with everything that the register has is on its way."""
        register.pins += 1
        if register.is_dirty:
            register.is_dirty = False
            del self._dirty[register.key]
        size_bytes = _size_bytes(register.image)
        self._total_bytes += size_bytes - register.size_bytes
        register.size_bytes = size_bytes

    def remove(self, register: CachedRegister, then: Callable[[], None]) -> None:
        """Remove the row of a purged key, after its floor, in one order for every crash (R36)."""
        prefix = register.key[:2]
        self.floors[prefix] = floor = max(register.floor, self.floors.get(prefix, NO_BALLOT))
        self._engine.put_meta(_floor_name(prefix), floor, sync=True, then=None)
        self.on_put(register)

        def on_durable() -> None:
            register.on_removed()
            then()

        self._engine.remove(register.key, sync=True, then=on_durable)

    def flush(self) -> None:
        """Write every commit that is only in memory."""
        self._write_oldest(len(self._dirty))

    def _write_oldest(self, count: int) -> None:
        for register in list(islice(self._dirty.values(), count)):
            self._write(register)

    def _write(self, register: CachedRegister) -> None:
        image = register.image
        self.on_put(register)
        self._engine.put(register.key, image, sync=False, then=lambda: register.on_durable(image))

    def _evict(self) -> None:
        cache = self._cache
        for _ in range(_EVICT_STEPS_MAX):
            if not cache or (len(cache) < self._registers_max and self._total_bytes <= self._register_bytes_max):
                return
            key, register = cache.popitem(last=False)
            if register.pins or register.is_used or register.is_dirty:
                cache[key] = register  # the last one now
                register.is_used = False
                if register.is_dirty:
                    self._write(register)
                    self._write_oldest(_WRITTEN_TOGETHER)
            else:
                self._forget(key, register)

    def _forget(self, key: bytes, register: CachedRegister) -> None:
        self._total_bytes -= register.size_bytes
        if register.promised > register.image.promised:
            partition = key[:2]
            self.promise_base[partition] = max(register.promised, self.promise_base.get(partition, NO_BALLOT))


def _any(key: bytes) -> bool:
    """Take every key for one."""
    return True


def _nobody(key: bytes, before: Image, after: Image) -> None:
    """Keep no trees."""


def is_mortal(body: bytes, at: int = 0) -> bool:
    """Return whether a body, which begins at `at`, is a tombstone or will expire."""
    expires_at = at + VERSION_BYTES
    return len(body) <= at + BODY_HEADER_BYTES or body[expires_at : expires_at + 8] != _NEVER


def _floor_name(prefix: bytes) -> str:
    return f"{_FLOORS}{int.from_bytes(prefix, 'big')}"


def _partition_of(floor_name: str) -> bytes:
    return int(floor_name[len(_FLOORS) :]).to_bytes(2, "big")


def _nobody_listens(key: bytes) -> None:
    """Take a key that nobody is interested in."""


def held_bytes(image: Image) -> int:
    """Return the size of what an image holds: its records, with their windows, and its entry."""
    _, _, (body, window), _, (committed_body, committed_window), overlay, _, _ = image
    return len(body) + len(window) + len(committed_body) + len(committed_window) + len(overlay)


def _size_bytes(image: Image) -> int:
    """Return the size of a row in memory."""
    return _ROW_OVERHEAD_BYTES + held_bytes(image)
