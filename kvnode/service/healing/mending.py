"""Anti-entropy's answering side, and the sending of records: what a replica lacks reaches it in paced batches.

Decides: what is answered about this node's trees, when a record may be sent (the repair budget) and how it is taken.
Leaves to others: who asks (`anti_entropy`), trees (`trees`), and whether a record changes anything (R12, R29).

Records travel in batches, each answered before the next is sent, so at most one batch per conversation is on its way.
The receiver counts a batch against its own budget and answers once that is out of debt: so it is never overrun.

Before the records of a batch go their marks: a node that was killed has accepted most of what it lacks, durably, and
has lost only the news that it is chosen, which was in memory (R12).  It says which records it does not hold, and is
sent those.  Where that turns out to be most of them the next batches go without marks, for a while.

Invariants: only committed records and overlay entries are sent (R13), only what is shown (R6), no settled tombstone
(R38); a row that fails its checksum is not sent, for reading it stops the node (R46).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import NO_BALLOT, Ballot
from kvnode.core.merkle import children, item_of, position_of, shorten
from kvnode.core.record import NO_ENTRY, NO_RECORD, Entry, Image, Record
from kvnode.core.register import Verdict
from kvnode.runtime import Runtime
from kvnode.service.exchange import Link
from kvnode.service.healing import comparing
from kvnode.service.healing.jobs import Jobs, Steps, size_of
from kvnode.service.healing.trees import Trees
from kvnode.service.pace import Pace
from kvnode.service.placement import BadName, Placements
from kvnode.service.registers import Registers
from kvnode.service.replica import Replica
from kvnode.service.states import check_ballot, check_parts

_BATCH_RECORDS = 64
_BATCH_BYTES = 64 * 1024
_GUEST_S = 5.0
"""How long a comparison may say nothing before another may begin."""
_FIELDS = 5
"""Of one record in RECORDS."""
_MARKS_PER_OPERATION = 4
"""A mark changes what is in memory and writes nothing."""
_UNMARKED_MAX = 15
"""Batches that go without marks before those are tried again."""

Sending = Generator["float | Message", "Message | None", bool]
Marking = Generator["float | Message", "Message | None", "list[list[bytes]] | None"]


class Tally:
    """What a conversation has sent, and what came of it."""

    __slots__ = ("changed", "sent", "unmarked", "unmarked_next")

    def __init__(self) -> None:
        self.sent = 0
        """Records, and marks that were enough."""
        self.changed = 0
        self.unmarked = 0
        """Batches that go without marks from now on."""
        self.unmarked_next = 1
        """How many that will be when marks are in vain the next time."""


class Mending:
    """Answers about this node's trees, sends records, and takes them."""

    def __init__(
        self,
        trees: Trees,
        replica: Replica,
        registers: Registers,
        placements: Placements,
        jobs: Jobs,
        pace: Pace,
        runtime: Runtime,
        epoch: int,
    ) -> None:
        self._trees = trees
        self._replica = replica
        self._registers = registers
        self._placements = placements
        self._jobs = jobs
        self._pace = pace
        self._runtime = runtime
        self._epoch = epoch
        self._listing: set[int] = set()
        """The nodes for which this one reads a partition just now."""
        self._guest = -1
        self._guest_until_s = 0.0
        """Who repairs this node: one at a time, or two would send the same."""
        self.sent = 0
        """Records sent to other replicas, and marks that were enough."""
        self.marked = 0
        """Of these the marks."""
        self.repaired = 0
        """Records from other replicas that changed something here."""

    def handlers(self) -> dict[int, Any]:
        """Return the handler of each message kind that this takes."""
        return {
            m.TREE_ROOTS: self.on_roots,
            m.TREE_NODES: self.on_nodes,
            m.TREE_LIST: self.on_list,
            m.RECORDS: self.on_records,
            m.MARK: self.on_mark,
        }

    # -- answering

    def on_roots(self, link: Link, message: Message) -> None:
        """Answer which ranges have other roots here."""
        _, number, epoch, packed = message
        roots = comparing.unpack_roots(packed)
        if not self._replica.takes(link, number, epoch):
            return
        differing = []
        for at, (copies, partition, root) in enumerate(roots):
            tree = self._trees.get(copies, partition)
            if tree is not None and tree.root != root:
                differing.append(at)
        now_s = self._runtime.clock.monotonic_s()
        if differing and link.index != self._guest and now_s < self._guest_until_s:
            link.send((m.REFUSED, number, "busy", "another node is being compared with this one"))
            return
        if differing:
            self._guest, self._guest_until_s = link.index, now_s + _GUEST_S
        elif link.index == self._guest:
            self._guest_until_s = 0.0
        bits = self._trees.bits if self._trees.is_ready else 0
        self._answer(link, (m.TREE_DIFFER, number, bits, comparing.pack_numbers(differing)))

    def on_nodes(self, link: Link, message: Message) -> None:
        """Answer which nodes below some of a tree differ here."""
        _, number, epoch, copies, partition, level, below, salt, packed, nodes = message
        parents, shortened = comparing.unpack_numbers(packed), comparing.unpack_nodes(nodes)
        if not self._replica.takes(link, number, epoch):
            return
        tree = self._trees.get(copies, partition)
        if link.index == self._guest:
            self._guest_until_s = self._runtime.clock.monotonic_s() + _GUEST_S
        numbers: list[int] = []
        if tree is not None:
            if not 0 <= level < below <= tree.bits or len(shortened) != len(parents) << (below - level):
                raise m.MessageError(f"a walk from level {level} to {below} with {len(shortened)} nodes")
            if any(parent >> level for parent in parents):
                raise m.MessageError(f"a walk below a node that level {level} does not have")
            numbers = tree.differing(below, children(level, below, parents), shortened, salt)
        self._answer(link, (m.TREE_DIFFER, number, self._trees.bits, comparing.pack_numbers(numbers)))

    def on_list(self, link: Link, message: Message) -> None:
        """Send what the other node lacks of some nodes' keys, then answer what this one lacks."""
        _, number, epoch, _, partition, level, _, _, _, numbers, keys = message
        comparing.unpack_numbers(numbers), comparing.unpack_keys(keys)
        if not self._replica.takes(link, number, epoch):
            return
        if not 0 <= level <= 16 or not 0 <= partition < self._placements.ring.partitions:
            raise m.MessageError(f"keys of partition {partition} were asked for at level {level}")
        if link.index in self._listing or link.index < 0:
            link.send((m.REFUSED, number, "busy", "a list for this node is being made already"))
            return
        self._listing.add(link.index)
        self._jobs.start(link.index, self._list(link, message), lambda: self._listing.discard(link.index))

    def _list(self, link: Link, message: Message) -> Steps:
        _, number, _, copies, partition, level, salt, sends_all, store, packed, keys = message
        wanted = frozenset(comparing.unpack_numbers(packed))
        theirs = comparing.unpack_keys(keys)
        lacked: list[int] = []
        tally = Tally()
        batch: list[list[bytes]] = []
        for rows in self.read(copies, partition, level, wanted, store):
            if isinstance(rows, float):
                yield rows
                continue
            for key, position, image in rows:
                goes, comes = _judge(item_of(key, image), image, theirs.pop(position, None), salt, sends_all)
                if goes:
                    batch.append(comparing.record_of(key, image))
                if comes:
                    lacked.append(position)
            if _is_full(len(batch), sum(map(_size_bytes, batch))):
                full, batch = batch, []
                if not (yield from self.send(full, tally)):
                    break
        else:
            is_sent = not batch or (yield from self.send(batch, tally))
            if is_sent:
                lacked.extend(theirs)
                packed = comparing.pack_positions(lacked)
                self._answer(link, (m.TREE_LACKS, number, tally.sent, tally.changed, packed))
                return
        link.send((m.REFUSED, number, "not-connected", "the node that asked does not answer"))

    def read(
        self, copies: int, partition: int, level: int, wanted: frozenset[int], store: str
    ) -> Generator[float | list[tuple[bytes, int, Image]], None, None]:
        """Yield (key, position, image) of the keys below some nodes of a range, in slices, and pauses between them."""
        trees = self._trees
        prefix = partition.to_bytes(2, "big")
        head = prefix + store.encode() + b"\0" if store else b""
        after, is_last, shift = prefix, False, 64 - level
        while not is_last:
            rows, is_last = trees.slice(prefix, after, is_shown=True)
            found = []
            for key, image in rows:
                position = position_of(key)
                if position >> shift in wanted and trees.copies_of(key) == copies and key.startswith(head):
                    found.append((key, position, image))
            yield found
            if not is_last:
                after = rows[-1][0]
                yield trees.pause_s()

    # -- records

    def send(self, records: Iterable[list[bytes]], tally: Tally) -> Sending:
        """Send records in batches, each when the budget allows; False if the other node does not answer."""
        batch: list[list[bytes]] = []
        batch_bytes = 0
        for record in records:
            batch.append(record)
            batch_bytes += _size_bytes(record)
            if _is_full(len(batch), batch_bytes):
                if not (yield from self._send_batch(batch, tally)):
                    return False
                batch, batch_bytes = [], 0
        return not batch or (yield from self._send_batch(batch, tally))

    def _send_batch(self, batch: list[list[bytes]], tally: Tally) -> Sending:
        if tally.unmarked:
            tally.unmarked -= 1
        else:
            rest = yield from self._mark(batch, tally)
            if rest is None:
                return False
            batch = rest
        return not batch or (yield from self._send_records(batch, tally))

    def _mark(self, batch: list[list[bytes]], tally: Tally) -> Marking:
        """Tell what is chosen of the keys without an overlay, and return the records that must be sent all the same;
        None if the other node does not answer."""
        marked = [record for record in batch if record[1] and not record[4]]
        if not marked:
            return batch
        request = (m.MARK, 0, self._epoch, [part for record in marked for part in record[:2]])
        size_bytes = size_of(request)
        while not self._pace.take(size_bytes, _operations(len(marked))):
            yield self._pace.wait_s()
        answer = yield request
        if answer is None or answer[0] != m.MARKED:
            return None
        lacking = comparing.unpack_numbers(answer[3], len(marked))
        if len(set(lacking)) < len(lacking):
            raise m.MessageError(f"{len(lacking)} numbers of {len(marked)} marks, some of them twice")
        if 2 * len(lacking) > len(marked):
            tally.unmarked = tally.unmarked_next
            tally.unmarked_next = min(2 * tally.unmarked_next + 1, _UNMARKED_MAX)
        else:
            tally.unmarked_next = 1
        self.marked += answer[2]
        self.sent += answer[2]
        tally.sent += answer[2]
        tally.changed += answer[2]
        return [record for record in batch if not record[1] or record[4]] + [marked[number] for number in lacking]

    def _send_records(self, batch: list[list[bytes]], tally: Tally) -> Sending:
        request = (m.RECORDS, 0, self._epoch, [field for record in batch for field in record])
        size_bytes = size_of(request)
        while not self._pace.take(size_bytes, len(batch)):
            yield self._pace.wait_s()
        answer = yield request
        if answer is None or answer[0] != m.RECORDED:
            return False
        self.sent += len(batch)
        tally.sent += len(batch)
        tally.changed += answer[2]
        return True

    def on_records(self, link: Link, message: Message) -> None:
        """Take records by R12 and R29; answered when this node's repair budget is out of debt."""
        _, number, epoch, fields = message
        if len(fields) % _FIELDS or any(type(field) is not bytes for field in fields):
            raise m.MessageError(f"{len(fields)} fields are no records of {_FIELDS} each")
        if not self._replica.takes(link, number, epoch):
            return
        changed = 0
        for at in range(0, len(fields), _FIELDS):
            changed += self._take(link, *fields[at : at + _FIELDS])
        self.repaired += changed
        self._reply(link, (m.RECORDED, number, changed), message, len(fields) // _FIELDS)

    def on_mark(self, link: Link, message: Message) -> None:
        """Mark by R12 what is chosen and held here, and say of what the record is not; answered like records."""
        _, number, epoch, fields = message
        if len(fields) % 2 or len(fields) > 2 * _BATCH_RECORDS or any(type(field) is not bytes for field in fields):
            raise m.MessageError(f"{len(fields)} fields are not at most {_BATCH_RECORDS} keys, each with a ballot")
        if not self._replica.takes(link, number, epoch):
            return
        lacking: list[int] = []
        changed = 0
        for at in range(0, len(fields), 2):
            key, ballot = fields[at], fields[at + 1]
            check_ballot(key, ballot)
            if not self._is_owned(key):
                continue
            verdict = self._registers.commit(key, Ballot(ballot), NO_RECORD)[1]
            if verdict is Verdict.DONE:
                changed += 1
            elif verdict is not Verdict.REPEAT:
                lacking.append(at // 2)
        reply = (m.MARKED, number, changed, comparing.pack_numbers(lacking))
        self.repaired += changed
        self._reply(link, reply, message, _operations(len(fields) // 2))

    def _take(self, link: Link, key: bytes, ballot: bytes, body: bytes, window: bytes, entry: bytes) -> bool:
        check_parts(key, ballot, body, window, entry)
        if not self._is_owned(key):
            return False
        record = Record(body, window) if ballot else NO_RECORD
        return self._replica.mend(link, key, Ballot(ballot) if ballot else NO_BALLOT, record, Entry(entry) or NO_ENTRY)

    def _is_owned(self, key: bytes) -> bool:
        """Return whether this node is an owner of a key.  Raises MessageError for what is no key."""
        try:
            placement = self._placements.of(key[2:])
        except BadName as error:
            raise m.MessageError(str(error)) from None
        return placement.prefix == key[:2] and placement.is_home

    def _reply(self, link: Link, reply: Message, request: Message, operations: int) -> None:
        """Count what came against the repair budget, and answer when that is out of debt."""
        self._pace.charge(size_of(request), operations)
        wait_s = self._pace.wait_s()
        if wait_s:
            self._runtime.timers.call_later(wait_s, lambda: self._answer(link, reply))
        else:
            self._answer(link, reply)

    # -- shared

    def _answer(self, link: Link, reply: Message) -> None:
        if link.send(reply):
            self._jobs.count(reply)


def _operations(marks: int) -> int:
    return 1 + marks // _MARKS_PER_OPERATION


def _size_bytes(record: list[bytes]) -> int:
    return sum(map(len, record))


def _is_full(records: int, size_bytes: int) -> bool:
    return records >= _BATCH_RECORDS or size_bytes >= _BATCH_BYTES


def _judge(item: int, image: Image, theirs: comparing.Listed | None, salt: int, sends_all: int) -> tuple[bool, bool]:
    """Return whether the other node must get this key from here, and whether this node must get it from there."""
    if theirs is None:
        return bool(item), False
    times = comparing.times_of(image)
    if not item:  # R38: the tombstone that is settled here is not fetched again, but what was written since is
        return False, not image.settled or bool(sends_all) or times != theirs.times
    if shorten(item, salt) == theirs.item:
        return False, False
    return bool(sends_all) or times >= theirs.times, bool(sends_all) or times <= theirs.times
