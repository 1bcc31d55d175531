"""Purges that forget what they stand on: promises, replicas, time, retries (R34-R38)."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient.wire.values import NO_BALLOT, NO_SBALLOT, body_times
from kvnode.core import change, operation, proposer, register
from kvnode.core.clock import stamp_of
from kvnode.core.proposer import Round
from kvnode.core.reading import FastRead
from kvnode.core.record import EMPTY_IMAGE, NO_RECORD
from kvnode.core.register import Register, Verdict
from kvnode.core.version import ballot_greatest_at
from kvnode.core.window import Window
from kvnode.service.healing.purge import Purge
from kvnode.service.healing.tombstones import Tombstones
from kvnode.service.healing.upkeep import Upkeep
from kvnode.service.registers import Registers
from kvnode.service.replica import Replica


def floors_forget_promises(patch: pytest.MonkeyPatch) -> None:
    def leave(self: Any, ballot: Any, horizon: Any) -> Any:
        self.floor = self.promised = max(self.floor, ballot)
        self.image, self.digest = EMPTY_IMAGE, b""
        return Verdict.DONE

    patch.setattr(Register, "_leave_floor", leave)


def floors_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    begin = Registers.__init__

    def start(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        self.floors = {}
        self._restart_promise = NO_BALLOT

    patch.setattr(Registers, "__init__", start)


def floors_end_with_their_process(patch: pytest.MonkeyPatch) -> None:
    begin = Registers.__init__

    def start(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        self.floors = {}

    patch.setattr(Registers, "__init__", start)


def most_are_all(patch: pytest.MonkeyPatch) -> None:
    step = Purge._step

    def few(self: Any, walk: Any, kind: Any, asked: int) -> None:
        up = sum(1 << index for index, link in enumerate(self._exchanges.links) if link is not None)
        step(self, walk, kind, asked & up)

    def identity(kind: int, copies: int, *rest: Any) -> Any:
        return operation.identity_read(kind, 0, *rest)

    patch.setattr(Purge, "_missing", lambda self, placement: -1)
    patch.setattr(Purge, "_step", few)
    patch.setattr("kvnode.service.consensus.identity_read", identity)


def nothing_is_settled(patch: pytest.MonkeyPatch) -> None:
    remove = Register.remove

    def settle(self: Any, ballot: Any, now_ms: int, grace_ms: int) -> Any:
        return Verdict.REPEAT

    def at_once(self: Any, ballot: Any, horizon: Any) -> Any:
        image = self.image
        if image.committed_ballot == ballot:
            self.image = image._replace(settled=True)
        verdict = remove(self, ballot, horizon)
        if verdict is not Verdict.DONE:
            self.image = image
        return verdict

    patch.setattr(Register, "settle", settle)
    patch.setattr(Register, "remove", at_once)


def no_grace_is_given(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Upkeep, "settle_after_ms", lambda upkeep, name: 0)


def late_writes_are_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replica, "_is_stale", lambda replica, key, register, stamp, now_ms: False)


def only_what_is_absent_is_late(patch: pytest.MonkeyPatch) -> None:
    is_stale = Replica._is_stale

    def stale(self: Any, key: bytes, register: Any, stamp: int, now_ms: int) -> bool:
        known = register.is_absent or register.image.settled
        return known and is_stale(self, key, register, stamp, now_ms)

    patch.setattr(Replica, "_is_stale", stale)


def refusals_wake_tombstones(patch: pytest.MonkeyPatch) -> None:
    apply = change.apply
    patch.setattr(change, "apply", lambda *arguments, is_settled=False: apply(*arguments))


def folds_forget_purged_tombstones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(change, "version_fold", lambda base, entry: (base[:28] or NO_SBALLOT) + entry[28:])


def what_is_purged_was_missed(patch: pytest.MonkeyPatch) -> None:
    fold = proposer._entry_to_fold
    patch.setattr(proposer, "_entry_to_fold", lambda promises, base, absent, _: fold(promises, base, absent, NO_BALLOT))


def windows_go_with_their_tombstones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Window, "ends_ms", 0)
    patch.setattr(Round, "anchor", lambda self: self.ballot if self.record.body == self.base.body else NO_BALLOT)
    purgeable = Register._purgeable

    def blind(self: Any, ballot: Any) -> Any:
        image = self.image
        if image.committed_ballot:
            self.image = image._replace(committed=image.committed._replace(window=b""))
        verdict = purgeable(self, ballot)
        self.image = image
        return verdict

    patch.setattr(Register, "_purgeable", blind)


def settled_tombstones_are_spread(patch: pytest.MonkeyPatch) -> None:
    def behind(read: Any) -> list[int]:
        return [replica for replica, digest in read._digests.items() if digest.greatest < read.ballot]

    patch.setattr(FastRead, "laggards", property(behind))
    patch.setattr("kvnode.service.eventual.spread_version", lambda state, body: body[:44])


def commits_pass_under_floors(patch: pytest.MonkeyPatch) -> None:
    commit = Register.commit

    def deaf(self: Any, ballot: Any, record: Any = NO_RECORD) -> Any:
        floor, self.floor = self.floor, NO_BALLOT
        verdict = commit(self, ballot, record)
        self.floor = floor
        return verdict

    patch.setattr(register.Register, "commit", deaf)


def what_has_expired_goes_at_once(patch: pytest.MonkeyPatch) -> None:
    """Each replica drops what has expired by its own clock, without a tombstone and without the others."""
    look = Tombstones.on_row

    def drop(self: Any, key: bytes, image: Any) -> None:
        expires_ms = body_times(image.committed.body)[0] if image.committed.body else 0
        if expires_ms and expires_ms <= self._clock.wall_ms() and not image.accepted_ballot and not image.overlay:
            register = self._registers.get(key)
            horizon = ballot_greatest_at(stamp_of(self._clock.wall_ms() + self._max_offset_ms))
            if not register.pins and register.image == image and register._leave_floor(NO_BALLOT, horizon) == 0:
                self._registers.remove(register, lambda: None)
                return
        look(self, key, image)

    patch.setattr(Tombstones, "on_row", drop)
