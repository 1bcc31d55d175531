"""The hash trees of this node's ranges: kept by every change, built from the rows after a start, checked now and then.

Decides: which trees there are, and how a tree is built while its keys change.  Leaves to others: what a tree is
(`core.merkle`), comparing trees (`anti_entropy`).

A *range* here is a partition of the stores with one number of copies: what two nodes both own, or one of them does not.
A range has a tree only if this node owns it.

Building reads a partition in slices of some hundred rows, a slice in one turn of the loop, with a pause between slices.
A slice takes what the node knows at that moment: the register if it is in memory, else the row.  A key before the
slices' end that changes is changed in the new tree as well.  One after it is noted, for its row may not be on disk when
its slice comes; what no slice has met is added in the end.  Rows put before the building began may also be on their way
to disk, without a further change: so building begins when those have arrived.

Bounds: `tree_leaves_max` leaves of 8 bytes for all partitions together; `_NOTED_MAX` noted keys, at which a building is
given up and begun again later.  The trees are not stored: building them anew is what finds rot (R46: each row's
checksum is looked at), and trees that have drifted from their rows.
"""

from __future__ import annotations

import logging
from collections.abc import Generator

from kvnode.config import Config
from kvnode.core.merkle import BITS_MAX, LEVELS, Tree, item_of, position_of
from kvnode.core.record import Image
from kvnode.service.pace import Pace
from kvnode.service.placement import Placements
from kvnode.service.registers import Registers, held_bytes
from kvnode.storage.engine import Engine

SLICE_ROWS = 128
"""Rows read in one turn of the loop: half a millisecond."""
SLICE_BYTES = 1 << 20
"""A slice ends after so many bytes of records and entries: they are held while its records are sent."""
PAUSE_S = 0.002
"""Between two slices; longer while clients would notice or hints arrive.  A million rows are read in twenty seconds."""
_BARRIER_S = 0.005
_NOTED_MAX = 65_536
_BARRIER_META = "trees/barrier"

Pauses = Generator[float, None, None]

_log = logging.getLogger(__name__)


class _Building:
    """The trees of one partition on their way."""

    __slots__ = ("cursor", "noted", "partition", "trees")

    def __init__(self, partition: int, trees: dict[int, Tree]) -> None:
        self.partition = partition
        self.trees = trees
        self.cursor = b""
        self.noted: dict[bytes, tuple[int, int, int]] = {}
        """Row key -> copies, position, item: changed, and not met by a slice."""

    def on_change(self, key: bytes, copies: int, position: int, old: int, new: int) -> None:
        if key <= self.cursor and key not in self.noted:
            self.trees[copies].replace(position, old, new)
        else:
            self.noted[key] = (copies, position, new)

    def finish(self) -> None:
        for copies, position, item in self.noted.values():
            self.trees[copies].replace(position, 0, item)


class Trees:
    """One tree per range that this node owns."""

    def __init__(
        self, config: Config, home: int, placements: Placements, registers: Registers, engine: Engine, pace: Pace
    ) -> None:
        self._registers = registers
        self._engine = engine
        self._pace = pace
        self._copies = {name.encode(): store.replicas for name, store in config.stores.items()}
        self._copies_default = self._copies[b"default"]
        self.all_copies = sorted(set(self._copies.values()))
        self._is_mixed = len(self.all_copies) > 1
        per_partition = config.limits.tree_leaves_max // config.partitions
        self.bits = max(LEVELS[0], min(BITS_MAX, per_partition.bit_length() - 1))
        preference = placements.ring.preference
        self._owned = [[copies for copies in self.all_copies if home in order[:copies]] for order in preference]
        self.partitions = [number for number, copies in enumerate(self._owned) if copies]
        self._trees: list[dict[int, Tree] | None] = [None] * config.partitions
        self._building: _Building | None = None
        self.built = 0
        """Partitions that have trees."""
        self.drifted = 0
        """Trees that were not what the rows say, and were replaced: rot, or a bug."""

    @property
    def is_ready(self) -> bool:
        """True once every range has its tree."""
        return self.built == len(self.partitions)

    def get(self, copies: int, partition: int) -> Tree | None:
        """Return the tree of a range, or None if this node does not own it or has not built it."""
        trees = self._trees[partition] if 0 <= partition < len(self._trees) else None
        return trees.get(copies) if trees is not None else None

    def roots(self) -> dict[str, str]:
        """Return one number per number of copies: the same on two nodes that own the same ranges and hold the same."""
        roots = dict.fromkeys(self.all_copies, 0)
        for trees in self._trees:
            for copies, tree in (trees or {}).items():
                roots[copies] ^= tree.root
        return {str(copies): f"{root:016x}" for copies, root in roots.items()}

    def copies_of(self, key: bytes) -> int:
        """Return how many copies there are of a row key's store."""
        if not self._is_mixed:
            return self._copies_default
        return self._copies.get(key[2 : key.index(0, 2)], self._copies_default)

    # -- kept by every change

    def on_change(self, key: bytes, before: Image, after: Image) -> None:
        """Take a change of what a key holds (R32); O(1), and nothing at all before the key's tree is built."""
        partition = key[0] << 8 | key[1]
        trees, building = self._trees[partition], self._building
        is_building = building is not None and building.partition == partition
        if trees is None and not is_building:
            return
        old, new = item_of(key, before), item_of(key, after)
        copies = self.copies_of(key)
        if old == new or copies not in self._owned[partition]:
            return
        position = position_of(key)
        if trees is not None:
            trees[copies].replace(position, old, new)
        if building is not None and is_building:
            building.on_change(key, copies, position, old, new)

    # -- built from the rows

    def build_all(self) -> Pauses:
        """Build the trees of every partition; yields how long to pause.  Raises DamagedRow."""
        for partition in self.partitions:
            while not (yield from self.build(partition)):
                yield 1.0

    def build(self, partition: int) -> Generator[float, None, bool]:
        """Build a partition's trees, in place of those that it has; False if too much changed meanwhile."""
        building = self._building = _Building(partition, {copies: Tree(self.bits) for copies in self._owned[partition]})
        yield from self._until_written()
        prefix = partition.to_bytes(2, "big")
        after = prefix
        while True:
            rows, is_last = self.slice(prefix, after, is_shown=False)
            for key, image in rows:
                copies = self.copies_of(key)
                building.noted.pop(key, None)
                if copies in building.trees:
                    building.trees[copies].replace(position_of(key), 0, item_of(key, image))
            if is_last:
                break
            building.cursor = after = rows[-1][0]
            if len(building.noted) > _NOTED_MAX:
                self._building = None
                return False
            yield self.pause_s()
        building.finish()
        self._building = None
        self._replace(partition, building.trees)
        return True

    def _until_written(self) -> Pauses:
        """Wait until every row that has been put is on disk."""
        arrived: list[bool] = []
        engine = self._engine
        while engine.backlog_bytes and not arrived:
            if engine.writable:
                engine.put_meta(_BARRIER_META, b"", sync=False, then=lambda: arrived.append(True))
                while not arrived:
                    yield _BARRIER_S
            else:
                yield 1.0

    def _replace(self, partition: int, trees: dict[int, Tree]) -> None:
        known = self._trees[partition]
        if known is None:
            self.built += 1
        else:
            for copies, tree in trees.items():
                if tree.root != known[copies].root or tree.count != known[copies].count:
                    self.drifted += 1
                    _log.error("the hash tree of partition %d was not what its rows say; it is built anew", partition)
        self._trees[partition] = trees

    # -- reading a partition

    def slice(self, prefix: bytes, after: bytes, *, is_shown: bool) -> tuple[list[tuple[bytes, Image]], bool]:
        """Return the next rows of a partition and whether they are the last: what is shown (R6), or what is known.

        Memory is ahead of the rows on disk.  A key without a row on disk is not met.  Raises DamagedRow.
        """
        scan = self._engine.scan(after + b"\0" if after != prefix else prefix, prefix + b"\xff")
        peek = self._registers.peek
        rows: list[tuple[bytes, Image]] = []
        size_bytes = 0
        is_last = True
        try:
            for key, image in scan:
                size_bytes += held_bytes(image)  # a killed node has values that were accepted only
                register = peek(key)
                if register is not None:
                    image = register.shown if is_shown else register.image
                rows.append((key, image))
                if len(rows) == SLICE_ROWS or size_bytes > SLICE_BYTES:
                    is_last = False
                    break
        finally:
            scan.close()
        return rows, is_last

    def shown(self, key: bytes) -> Image:
        """Return what this node shows of a key (R6), without keeping it in memory.  Raises DamagedRow."""
        return self._registers.shown(key)

    def pause_s(self) -> float:
        """Return how long to pause between two slices."""
        return PAUSE_S * self._pace.slowness
