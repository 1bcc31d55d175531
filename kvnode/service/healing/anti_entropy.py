"""Anti-entropy: replicas compare their hash trees, and what one lacks the other sends (R32).

Decides: who compares with whom and when, and how a comparison goes.  Leaves to others: trees (`trees`), the answering
side and the sending of records (`mending`), which of two states is newer (R12, R29).

Of two nodes the one that the configuration names first asks: on a schedule (`repair_interval_s`), soon after the other
can be reached again, and when a person wants it.  A node that had no room for what it coordinated itself, which nobody
owes it, asks all others once it has.  A comparison with one node is a job; a node asks one other at a time:

    1. the roots of all ranges that both own, in one message: where nothing differs, that was all;
    2. once more a moment later, for what was on its way (marks follow their writes by some 20 ms);
    3. for each range that still differs a walk down the two trees, then the keys below the nodes that differ: the
       other node sends what is newer there and says what it lacks, and gets that;
    4. from 1. again, for the ranges that differed, until nothing does or nothing helps.

A peer that has just come back may be owed hints; those are cheaper, so a comparison waits for them, but not for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvnode.config import Limits
from kvnode.core.merkle import BITS_MAX, LEVELS, children, item_of, levels_of, shorten
from kvnode.runtime import Clock
from kvnode.service.exchange import Exchanges
from kvnode.service.healing import comparing
from kvnode.service.healing.jobs import Jobs, Steps
from kvnode.service.healing.mending import Mending, Tally
from kvnode.service.healing.partners import NEVER_S, RETRY_S, RETURN_S, Demand, Partner
from kvnode.service.healing.trees import Trees
from kvnode.service.placement import Placements

HINTS_S = 60.0
"""How long a comparison waits for hints to be delivered first."""
_SETTLE_S = 0.5
_ROUNDS_MAX = 6
_KEYS_MAX = 16_384
"""Keys told in one list: some 450 KiB, and a few MiB of memory while it is made."""
_SALT = 0x9E3779B97F4A7C15

Range = tuple[int, int]
"""Copies, partition."""
Answered = Generator["float | Message", "Message | None", bool]
Differing = Generator["float | Message", "Message | None", "list[Range] | None"]


class AntiEntropy:
    """The comparisons that this node begins."""

    def __init__(
        self,
        names: list[str],
        home: int,
        exchanges: Exchanges,
        placements: Placements,
        trees: Trees,
        mending: Mending,
        jobs: Jobs,
        clock: Clock,
        limits: Limits,
        epoch: int,
    ) -> None:
        self._names = names
        self._home = home
        self._exchanges = exchanges
        self._placements = placements
        self._trees = trees
        self._mending = mending
        self._jobs = jobs
        self._clock = clock
        self._limits = limits
        self._epoch = epoch
        sharing = [index for index in range(len(names)) if index != home and self._shared(index)]
        self._asked = [index for index in sharing if index > home]
        every_s = limits.repair_interval_s
        self._partners = {index: Partner(every_s if index > home else NEVER_S) for index in sharing}
        self._active = -1
        self._is_rebuilding = False
        self._rebuild_at = 0
        self._rebuild_due_s = 0.0
        self._is_started = False
        self._salt = 1
        self.demand: Demand | None = None
        self.comparisons = 0
        self.differing = 0
        """Ranges that differed."""
        self.is_owed: Callable[[int], bool] = lambda index: False
        """Whether hints are owed to a node."""

    # -- when

    def start(self) -> None:
        """Build the trees and begin to compare."""
        self._is_started = True
        if not self._trees.is_ready:
            self._is_rebuilding = True
            self._jobs.start(self._home, self._build_all(), self._on_built)

    def on_peer_up(self, index: int) -> None:
        """A node can be reached (again): compare soon."""
        if index in self._asked:
            self._partners[index].soon(self._clock.monotonic_s())

    def catch_up(self) -> None:
        """This node lacks what nobody owes it: compare with all others soon."""
        now_s = self._clock.monotonic_s()
        for partner in self._partners.values():
            if partner.due_s > now_s + RETURN_S:  # a disk that fills up again and again must not put it off
                partner.soon(now_s)

    def sweep(self, now_s: float) -> None:
        """Begin what is due."""
        if not self._is_started or not self._trees.is_ready:
            return
        if not self._is_rebuilding and now_s >= self._rebuild_due_s:
            self._rebuild_next()
        if self._active >= 0:
            return
        if self.demand is not None and self.demand.is_running:
            self._go_on(self.demand)
            return
        for index, partner in self._partners.items():
            if partner.due_s <= now_s and self._exchanges.links[index] is not None:
                if now_s < partner.returned_s + HINTS_S and self.is_owed(index):
                    continue
                self._compare(index, "", Tally())
                return

    def _build_all(self) -> Steps:
        yield from self._trees.build_all()

    def _rebuild_next(self) -> None:
        """Build one partition's trees anew; all of them within `tree_rebuild_s`."""
        partitions = self._trees.partitions
        if not partitions:
            return
        self._is_rebuilding = True
        self._rebuild_at = (self._rebuild_at + 1) % len(partitions)
        self._jobs.start(self._home, self._rebuild(partitions[self._rebuild_at]), self._on_built)

    def _rebuild(self, partition: int) -> Steps:
        yield from self._trees.build(partition)

    def _on_built(self) -> None:
        self._is_rebuilding = False
        partitions = max(1, len(self._trees.partitions))
        self._rebuild_due_s = self._clock.monotonic_s() + self._limits.tree_rebuild_s / partitions

    def _compare(self, index: int, store: str, tally: Tally) -> None:
        self._active = index
        self._jobs.start(index, self._comparison(index, store, tally), self._on_compared)

    def _on_compared(self) -> None:
        self._active = -1

    # -- on demand

    def repair(self, store: str) -> None:
        """Compare with every partner now, unless that is under way."""
        if self.demand is None or not self.demand.is_running:
            self.demand = demand = Demand(store, list(self._asked))
            demand.ranges = sum(len(self._shared(index)) for index in self._asked)

    def _go_on(self, demand: Demand) -> None:
        if demand.waiting:
            self._compare(demand.waiting.pop(0), demand.store, Tally())
        else:
            demand.is_running = False

    def demand_facts(self) -> dict[str, Any]:
        """Return how far the comparison on demand is."""
        demand = self.demand or Demand("", [])
        return {
            "running": demand.is_running and self.demand is not None,
            "trees": self.progress(),
            "partners": [self._names[index] for index in self._asked],
            "ranges": demand.ranges,
            "compared": demand.compared + demand.current,
            "differing": demand.differing,
            "sent": demand.sent,
            "repaired": demand.repaired,
            "failed": demand.failed,
        }

    # -- one comparison

    def _shared(self, index: int) -> list[Range]:
        """Return the ranges that this node and another both own."""
        shared = []
        for partition, order in enumerate(self._placements.ring.preference):
            for copies in self._trees.all_copies:
                owners = order[:copies]
                if self._home in owners and index in owners:
                    shared.append((copies, partition))
        return shared

    def _comparison(self, index: int, store: str, tally: Tally) -> Steps:
        ranges = self._shared(index)
        demand = self.demand if self.demand is not None and self.demand.is_running else None
        try:
            is_whole = yield from self._until_equal(index, ranges, store, tally, demand)
        except m.MessageError:
            if demand is not None:
                demand.failed.append(self._names[index])
            raise
        partner = self._partners[index]
        now_s = self._clock.monotonic_s()
        if is_whole:
            self.comparisons += 1
            if not store:
                partner.on_compared(now_s)
        elif demand is None:
            partner.on_failure(now_s)
        if demand is not None:
            demand.sent += tally.sent
            demand.repaired += tally.changed
            if is_whole:
                demand.compared += len(ranges)
            elif demand.may_retry(index) and self._exchanges.links[index] is not None:
                yield RETRY_S
                demand.waiting.append(index)
            else:
                demand.failed.append(self._names[index])
            demand.current = 0

    def _until_equal(
        self, index: int, ranges: list[Range], store: str, tally: Tally, demand: Demand | None
    ) -> Answered:
        """Compare until nothing differs or nothing helps; False if the other node does not answer or is not ready."""
        for attempt in range(_ROUNDS_MAX):
            differing = yield from self._differing(index, ranges)
            if differing is None:
                return False
            if not differing:
                return True
            if demand is not None and attempt == 0:
                demand.current = len(ranges) - len(differing)
            if attempt == 0:
                yield _SETTLE_S
            else:
                changed = tally.changed
                if attempt == 1:
                    self.differing += len(differing)
                    if demand is not None:
                        demand.differing += len(differing)
                for copies, partition in differing:
                    if not (yield from self._mend(index, copies, partition, store, attempt > 2, tally)):
                        return False
                    if demand is not None and attempt == 1:
                        demand.current += 1
                if changed == tally.changed and attempt > 2:
                    return True
            ranges = differing
        return True

    def _differing(self, index: int, ranges: list[Range]) -> Differing:
        """Return those of some ranges whose roots differ; None if there is no answer."""
        roots = []
        for copies, partition in ranges:
            tree = self._trees.get(copies, partition)
            if tree is None:
                return None
            roots.append((copies, partition, tree.root))
        answer = yield (m.TREE_ROOTS, 0, self._epoch, comparing.pack_roots(roots))
        if answer is None or answer[0] != m.TREE_DIFFER or not answer[2]:
            return None
        if not LEVELS[0] <= answer[2] <= BITS_MAX:
            raise m.MessageError(f"trees of 2 ** {answer[2]} leaves")
        self._partners[index].bits = answer[2]
        return [ranges[number] for number in comparing.unpack_numbers(answer[3], len(ranges))]

    def _mend(self, index: int, copies: int, partition: int, store: str, sends_all: bool, tally: Tally) -> Answered:
        """Walk one range's trees, and exchange what differs."""
        tree = self._trees.get(copies, partition)
        if tree is None:
            return False
        self._salt = salt = (self._salt + _SALT) % (1 << 64) | 1
        level, numbers, count = 0, [0], tree.count
        for below in levels_of(min(tree.bits, self._partners[index].bits), count):
            tree = self._trees.get(copies, partition) or tree
            nodes = [shorten(node, salt) for node in tree.nodes(below, children(level, below, numbers))]
            answer = yield (
                m.TREE_NODES, 0, self._epoch, copies, partition, level, below, salt,
                comparing.pack_numbers(numbers), comparing.pack_nodes(nodes),
            )  # fmt: skip
            if answer is None or answer[0] != m.TREE_DIFFER:
                return False
            level, numbers = below, comparing.unpack_numbers(answer[3], 1 << below)
        per_list = max(1, _KEYS_MAX * (1 << level) // max(1, count))
        for at in range(0, len(numbers), per_list):
            some = numbers[at : at + per_list]
            if not (yield from self._exchange(copies, partition, level, some, store, salt, sends_all, tally)):
                return False
        return True

    def _exchange(
        self,
        copies: int,
        partition: int,
        level: int,
        numbers: list[int],
        store: str,
        salt: int,
        sends_all: bool,
        tally: Tally,
    ) -> Answered:
        """Tell the other node of the keys below some nodes; it sends what is newer there, and gets what it lacks."""
        keys: dict[int, bytes] = {}
        told: list[bytes] = []
        for rows in self._mending.read(copies, partition, level, frozenset(numbers), store):
            if isinstance(rows, float):
                yield rows
                continue
            for key, position, image in rows:
                item = item_of(key, image)
                if item:
                    keys[position] = key
                    told.append(comparing.pack_key(position, shorten(item, salt), image))
        answer = yield (
            m.TREE_LIST, 0, self._epoch, copies, partition, level, salt, int(sends_all), store,
            comparing.pack_numbers(numbers), b"".join(told),
        )  # fmt: skip
        if answer is None or answer[0] != m.TREE_LACKS:
            return False
        tally.sent += answer[2]
        tally.changed += answer[3]
        lacked = [keys[position] for position in comparing.unpack_positions(answer[4]) if position in keys]
        return (yield from self._mending.send(self._records(lacked), tally))

    def _records(self, keys: list[bytes]) -> Iterator[list[bytes]]:
        """Yield the records of some keys, each read when it is asked for."""
        for key in keys:
            yield comparing.record_of(key, self._trees.shown(key))

    # -- facts

    def progress(self) -> float:
        """Return which part of the trees is built."""
        partitions = len(self._trees.partitions)
        return round(self._trees.built / partitions, 3) if partitions else 1.0

    def facts(self) -> dict[str, Any]:
        """Return what STATUS shows."""
        now_s = self._clock.monotonic_s()
        return {
            "comparisons": self.comparisons,
            "differing": self.differing,
            "sent": self._mending.sent,
            "marked": self._mending.marked,
            "repaired": self._mending.repaired,
            "sent_bytes": self._jobs.sent_bytes,
            "sent_messages": self._jobs.sent_messages,
            "trees": self.progress(),
            "drifted": self._trees.drifted,
            "roots": self._trees.roots(),
            "comparing": self._names[self._active] if self._active >= 0 else "",
            "since_s": {self._names[index]: self._partners[index].since_s(now_s) for index in self._asked},
        }
