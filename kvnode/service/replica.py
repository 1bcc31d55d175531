"""The replica: answers prepares, accepts, commits, reads and entries for the keys that this node holds.

Decides: when an answer may leave (R6: nothing is shown before it is durable; R45), and what is refused before a rule is
asked (another epoch, a full disk: `room`).  Leaves to others: the rules (`core.register`), rows and syncs (the engine),
links.

Every handler takes the link that a message came over and the message, changes one register without waiting, and answers
over the same link: at once if nothing had to be written, else when the row's group is on disk.  The coordinator of this
node comes over a `HomeLink` and is served like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import BALLOT_BYTES, BODY_HEADER_BYTES, Ballot
from kvnode.core.clock import stamp_ms, stamp_of
from kvnode.core.record import NO_ENTRY, NO_RECORD, Entry, Image, Record, entry_version
from kvnode.core.register import Register, Verdict, digest_of
from kvnode.core.version import version_is_absent, version_stamp
from kvnode.runtime import Clock
from kvnode.service.age import Age
from kvnode.service.ceilings import Ceilings
from kvnode.service.exchange import Link
from kvnode.service.registers import CachedRegister, Registers, is_mortal
from kvnode.service.room import Room
from kvnode.service.states import (
    KEY_BYTES_MIN,
    RECORD_FIELDS,
    check_ballot,
    check_record,
    check_records,
    promise_message,
)
from kvnode.storage.engine import Engine

_LATE_MS = 1000
"""An eventual write that is younger is not even asked whether it is stale."""

_DONE, _REPEAT, _NACK, _UNSEEN = Verdict.DONE, Verdict.REPEAT, Verdict.NACK, Verdict.UNSEEN


class _Answer:
    """A reply that waits for a row: called once the row is durable.  A request without a number is not answered."""

    __slots__ = ("image", "link", "register", "reply")

    def __init__(self, register: Register, image: Image, link: Link, reply: Message) -> None:
        self.register = register
        self.image = image
        self.link = link
        self.reply = reply

    def __call__(self) -> None:
        self.register.on_durable(self.image)
        if self.reply[1]:
            self.link.send(self.reply)


class Replica:
    """The acceptor and overlay of every key of this node."""

    def __init__(
        self,
        engine: Engine,
        registers: Registers,
        ceilings: Ceilings,
        age: Age,
        clock: Clock,
        epoch: int,
        max_offset_ms: int,
        unsynced_stores: Collection[bytes],
    ) -> None:
        self._engine = engine
        self.room = Room(engine)
        self._registers = registers
        self._ceilings = ceilings
        self.age = age
        """Must hear of whatever is put before an answer."""
        self._clock = clock
        self._epoch = epoch
        self._max_offset_ms = max_offset_ms
        self._unsynced_stores = unsynced_stores
        self.grace_ms: Callable[[bytes], int] = _for_ever
        """Says of a key's name how old an eventual write may be that comes late (R37)."""
        self.grace_ms_min = 0
        """The least that it says of any."""
        self.charge: Callable[[int, int], float] = lambda size_bytes, operations: 0.0
        """Counts hints that were taken, by their bytes and number, against the repair budget here; returns how many
        seconds the sender should wait before the next."""
        self.on_missed: Callable[[], None] = lambda: None
        """Hears that there was no room for something which nobody will send again by himself."""
        self._horizon = b""
        """Stamp of max_offset ahead, as bytes; renewed when an accept goes beyond it."""
        self.superseded = 0
        """Eventual entries that arrived and were no longer visible (protocol section 7: count them)."""
        self.stale = 0
        """Those that were refused for their age (R37)."""

    def handlers(self) -> dict[int, Any]:
        """Return the handler of each message kind that a replica takes."""
        return {
            m.PREPARE: self.on_prepare,
            m.ACCEPT: self.on_accept,
            m.COMMIT: self.on_commit,
            m.MARKS: self.on_marks,
            m.READ: self.on_read,
            m.ENTRY: self.on_entry,
            m.REPAIR: self.on_entry,
            m.HINTS: self.on_hints,
        }

    # -- the register

    def on_prepare(self, link: Link, message: Message) -> None:
        """R9, R11: promise, and show everything durable; a promise below the ceiling needs no sync."""
        _, number, epoch, key, ballot = message
        check_ballot(key, ballot)
        if epoch != self._epoch or (self.is_clogged and not self._may_bury(key)):
            self.refuse(link, number, epoch)
            return
        register = self._registers.get(key)
        before = register.promise
        verdict = register.prepare(ballot, self._clock.wall_ms(), self._max_offset_ms)
        if verdict is _NACK:
            link.send((m.NACK, number, before))
        elif verdict is Verdict.SKEW:
            link.send(
                (m.REFUSED, number, "clock-skew", "the ballot is further ahead of this node's clock than max_offset")
            )
        elif register.pins or not self._ceilings.covers(ballot):
            self._ceilings.renew()  # in the same group, so that the next promises need none
            register.image = image = register.image._replace(promised=ballot)
            self._put(key, register, link, promise_message(number, image, register.floor, before))
        else:
            link.send(promise_message(number, register.image, register.floor, before))

    def on_accept(self, link: Link, message: Message) -> None:
        """R10: accept, and acknowledge once it is durable.  A commit that rides along is done first, and stands."""
        _, number, epoch, key, ballot, body, window, base, following, commit = message
        check_ballot(key, ballot)
        if epoch != self._epoch or (self.is_clogged and (len(body) != BODY_HEADER_BYTES or not self._may_bury(key))):
            self.refuse(link, number, epoch)
            return
        if len(body) < BODY_HEADER_BYTES or following <= ballot or len(following) != BALLOT_BYTES:
            raise m.MessageError(
                f"an accept of {len(body)} bytes of body, or with a next ballot that is none or not above its own"
            )
        if window:
            check_record(ballot, body, window)
        if commit:
            self._commit(link, key, commit, NO_RECORD)
        register = self._registers.get(key)
        if following > self._horizon:
            self._horizon = stamp_of(self._clock.wall_ms() + self._max_offset_ms).to_bytes(8, "big")
        before = register.image
        verdict = register.accept(ballot, Record(body, window), base, following, self._horizon)
        image = register.image
        if verdict is _DONE:
            self._registers.undecided.note(key)
            if before.settled:
                self._registers.on_change(key, before, image)
            overlay = image.overlay
            if overlay and entry_version(overlay) <= body:  # a body begins with its version
                overlay = NO_ENTRY
            self._put(key, register, link, (m.ACCEPTED, number, overlay))
        elif verdict is _NACK:
            link.send((m.NACK, number, register.promise))
        elif verdict is Verdict.SKEW:
            text = "the promise asked for is further ahead of this node's clock than max_offset"
            link.send((m.REFUSED, number, "clock-skew", text))
        elif verdict is _UNSEEN:
            link.send((m.UNSEEN, number, NO_ENTRY))  # the entry may not be durable yet, and the next prepare shows it
        else:
            self._answer_repeat(key, register, link, (m.ACCEPTED, number, NO_ENTRY))

    def on_commit(self, link: Link, message: Message) -> None:
        """R12: mark a chosen ballot; needs no sync and no answer, unless it could not be done.

        A repair is dropped while the disk cannot take more, and asked for once it can: nobody waits for it.
        """
        _, epoch, key, ballot, body, window = message
        check_ballot(key, ballot)
        if epoch != self._epoch:
            return
        if body and self.is_clogged:
            self.on_missed()
            return
        if body:
            check_record(ballot, body, window)
        record = Record(body, window) if body else NO_RECORD
        self._commit(link, key, ballot, record)

    def on_marks(self, link: Link, message: Message) -> None:
        """R12 for many keys: mark chosen ballots whose records this replica should hold."""
        _, epoch, marks = message
        if epoch != self._epoch:
            return
        if len(marks) % 2 or any(type(part) is not bytes for part in marks):
            raise m.MessageError("marks are key, ballot, key, ballot, ...")
        for key, ballot in zip(marks[::2], marks[1::2], strict=True):
            check_ballot(key, ballot)
            self._commit(link, key, ballot, NO_RECORD)

    def _commit(self, link: Link, key: bytes, ballot: Ballot, record: Record) -> Verdict:
        register, verdict = self._registers.commit(key, ballot, record)
        if verdict is Verdict.UNKNOWN:
            link.send((m.UNKNOWN_BALLOT, key, ballot))
        elif verdict is Verdict.FLOOR:
            link.send((m.BELOW_FLOOR, key, register.floor))
        return verdict

    # -- reads and the overlay

    def on_read(self, link: Link, message: Message) -> None:
        """R6, R20: show the last durable state, as a digest or whole; a read never waits for a sync."""
        _, number, epoch, key, whole = message
        if epoch != self._epoch or len(key) < KEY_BYTES_MIN:
            self.refuse(link, number, epoch)
            return
        register = self._registers.get(key)
        if whole:
            link.send(promise_message(number, register.shown, register.floor, register.promise))
        else:
            link.send((m.DIGEST, number, register.digest or self.digest(register)))

    def digest(self, register: Register) -> bytes:
        """Return the digest of what a register shows, from its cache."""
        if not register.digest:
            register.digest = digest_of(register.shown, register.floor)
        return register.digest

    def on_entry(self, link: Link, message: Message) -> None:
        """R29, R30: keep a newer eventual write; acknowledge it, or what supersedes it, once that is durable."""
        kind, number, epoch, key, entry = message
        if epoch != self._epoch or self.is_clogged:
            self.refuse(link, number, epoch)
            return
        if len(entry) <= BODY_HEADER_BYTES or len(key) < KEY_BYTES_MIN:
            raise m.MessageError(f"an overlay entry of {len(entry)} bytes for a key of {len(key)}")
        stamp, now_ms = version_stamp(entry_version(entry)), self._clock.wall_ms()
        if not self._ceilings.hybrid.observe(stamp, now_ms):
            link.send((m.REFUSED, number, "clock-skew", "the entry's stamp is further ahead than max_offset"))
            return
        register = self._registers.get(key)
        if now_ms - stamp_ms(stamp) > _LATE_MS and kind == m.ENTRY and self._is_stale(key, register, stamp, now_ms):
            self.stale += 1
            link.send(
                (m.REFUSED, number, "stale", "the write is older than gc_grace, and the key may have been purged")
            )
            return
        verdict = self._store(key, register, Entry(entry))
        if verdict is _DONE:
            self._put(key, register, link, (m.WRITTEN, number, 0))
            return
        is_superseded = verdict is not _REPEAT
        self.superseded += is_superseded
        self._answer_repeat(key, register, link, (m.WRITTEN, number, int(is_superseded)))

    def mend(self, link: Link, key: bytes, ballot: Ballot, record: Record, entry: Entry) -> bool:
        """Take what another replica holds of a key, by R12 and R29; return whether anything changed.  No answer."""
        verdict = self._commit(link, key, ballot, record) if ballot else Verdict.REPEAT
        if not entry:
            return verdict is _DONE
        if not self._ceilings.hybrid.observe(version_stamp(entry_version(entry)), self._clock.wall_ms()):
            return verdict is _DONE
        register = self._registers.get(key)
        if self._store(key, register, entry) is not _DONE:
            return verdict is _DONE
        self._put(key, register, link, (m.WRITTEN, 0, 0))
        return True

    def on_hints(self, link: Link, message: Message) -> None:
        """Take what this replica may have missed; acknowledged together, once all of it is durable."""
        _, number, epoch, fields = message
        count = check_records(fields, m.HINTS_MAX)
        if not self.takes(link, number, epoch):
            return
        wait_ms = round(self.charge(sum(map(len, fields)), count) * 1000)
        outcomes = bytearray()
        pending: CachedRegister | None = None
        for at in range(0, len(fields), RECORD_FIELDS):
            key, ballot, body, window, entry = fields[at : at + RECORD_FIELDS]
            outcomes.append(self._take_hint(link, key, ballot, Record(body, window), Entry(entry)))
            register = self._registers.get(key)
            if register.pins:
                pending = register
        reply = (m.HINTED, number, wait_ms, bytes(outcomes))
        if pending is not None:
            self._put(pending.key, pending, link, reply)  # the last row of all: groups complete in order
        else:
            link.send(reply)

    def _take_hint(self, link: Link, key: bytes, ballot: Ballot, record: Record, entry: Entry) -> int:
        """Take what this replica may have missed of a key, by R12 and R29; return what became of it.

        An entry that is older than the store's gc_grace is refused: what it was superseded by may be purged (R37).
        """
        if ballot and self._commit(link, key, ballot, record) is Verdict.FLOOR:
            return m.HINT_LATER  # the sender settles the record above the floor first
        register = self._registers.get(key)
        outcome, is_changed = m.HINT_TAKEN, False
        if entry:
            stamp, now_ms = version_stamp(entry_version(entry)), self._clock.wall_ms()
            if self._is_stale(key, register, stamp, now_ms):
                self.stale += 1
                outcome = m.HINT_STALE
            elif not self._ceilings.hybrid.observe(stamp, now_ms):
                outcome = m.HINT_LATER
            else:
                is_changed = self._store(key, register, entry) is _DONE
        if is_changed or register.pins:  # a commit need not be durable (R12); a hint is forgotten, so it must be
            self._put(key, register, link, (m.HINTED, 0, 0, b""))
        return outcome

    def _store(self, key: bytes, register: Register, entry: Entry) -> Verdict:
        before = register.image
        verdict = register.store(entry)
        if verdict is _DONE:
            self._registers.on_change(key, before, register.image)
            if is_mortal(entry, 1):
                self._registers.on_mortal(key)
        return verdict

    def _is_stale(self, key: bytes, register: Register, stamp: int, now_ms: int) -> bool:
        """Return whether an eventual write comes so late that it may be older than a purged delete (R37).

        Nothing but a committed change is known to supersede it.  A proposal may be dead, and a record that only keeps
        the request window of an absent key supersedes nothing.  The time is this node's greatest, so that a wall clock
        that was set back lets nothing through.
        """
        age_ms = max(now_ms, stamp_ms(self._ceilings.hybrid.last)) - stamp_ms(stamp)
        if age_ms <= self.grace_ms_min:
            return False
        image = register.image
        if not (image.settled or version_is_absent(image.committed.version)):
            return False
        return age_ms > self.grace_ms(key[2:])

    # -- shared

    def takes(self, link: Link, number: int, epoch: int) -> bool:
        """Return whether a request may be done now; if not, it has been refused."""
        is_refused = epoch != self._epoch or self.is_clogged
        if is_refused:
            self.refuse(link, number, epoch)
        return not is_refused

    def takes_removal(self, link: Link, number: int, epoch: int) -> bool:
        """Return whether a step of a purge may be done now, also in a full disk's reserve; if not, it is refused."""
        is_taken = epoch == self._epoch and self.room.may_free
        if not is_taken:
            self.refuse(link, number, epoch)
        return is_taken

    def _may_bury(self, key: bytes) -> bool:
        return self.room.may_bury(self._registers.get(key).image, self._clock.wall_ms())

    def answer(self, register: CachedRegister, link: Link, reply: Message, *, is_changed: bool) -> None:
        """Answer once what the register holds is durable; `is_changed`: it is in no row yet."""
        if is_changed:
            self._put(register.key, register, link, reply)
        else:
            self._answer_repeat(register.key, register, link, reply)

    @property
    def is_clogged(self) -> bool:
        """True while the disk cannot take more."""
        return self.room.is_clogged

    def refuse(self, link: Link, number: int, epoch: int) -> None:
        """Answer REFUSED: nothing was changed, and nothing will be."""
        if epoch != self._epoch:
            reason = ("stale-epoch", f"the ring's epoch here is {self._epoch}, not {epoch}")
        else:
            reason = ("overloaded", self.room.reason())
        link.send((m.REFUSED, number, *reason))

    def _put(self, key: bytes, register: CachedRegister, link: Link, reply: Message) -> None:
        """Write the register's row; `reply` leaves when it is durable."""
        image = register.image
        self._registers.on_put(register)
        if not self.age.is_noted:
            self.age.note()
        is_synced = not self._unsynced_stores or key[2 : key.index(0, 2)] not in self._unsynced_stores
        self._engine.put(key, image, sync=is_synced, then=_Answer(register, image, link, reply))

    def _answer_repeat(self, key: bytes, register: CachedRegister, link: Link, reply: Message) -> None:
        """Answer what was done before: at once if it is durable, else with the group that follows it."""
        if register.pins:
            self._put(key, register, link, reply)
        elif reply[1]:
            link.send(reply)


def _for_ever(name: bytes) -> int:
    return 1 << 62
