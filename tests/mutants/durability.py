"""What a crash or a bad disk takes although it may not: promises, ballots, acknowledgements, what readers have seen
(R3-R6, R9, R11, R19, R45, R46)."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient.wire.values import Ballot
from kvnode.core import register
from kvnode.core.clock import HybridClock
from kvnode.core.proposer import CachedPromise
from kvnode.core.version import BallotIssuer
from kvnode.service.promises import PromiseCache
from kvnode.service.registers import Registers
from kvnode.service.replica import Replica
from kvnode.storage.engine import StorageError
from kvnode.storage.memory import MemoryDisk


def cached_promises_survive(patch: pytest.MonkeyPatch) -> None:
    kept: dict[bytes, CachedPromise] = {}
    patch.setattr(PromiseCache, "keep", lambda cache, key, cached: kept.__setitem__(key, cached))
    patch.setattr(PromiseCache, "take", lambda cache, key: kept.get(key))


def a_restart_begins_where_it_began(patch: pytest.MonkeyPatch) -> None:
    init = BallotIssuer.__init__
    patch.setattr(BallotIssuer, "__init__", lambda issuer, node, incarnation: init(issuer, node, 1))
    patch.setattr("kvnode.service.ceilings.ballot_greatest_at", lambda stamp: Ballot(b""))
    init_clock = HybridClock.__init__
    patch.setattr(HybridClock, "__init__", lambda clock, offset, ceiling=0: init_clock(clock, offset, 0))


def promises_count_for_nothing_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("kvnode.service.ceilings.ballot_greatest_at", lambda stamp: Ballot(b""))


def no_promise_is_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("kvnode.service.ceilings.Ceilings.covers", lambda ceilings, ballot: True)


def backups_are_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("kvnode.service.membership.Membership._judge_age", lambda *arguments, **options: None)


def answers_do_not_wait_for_the_disk(patch: pytest.MonkeyPatch) -> None:
    honest: Any = Replica._put

    def hasty(replica: Any, *arguments: Any) -> Any:
        *row, link, reply = arguments
        link.send(reply)
        honest(replica, *row, _Nobody(), reply)

    patch.setattr(Replica, "_put", hasty)


class _Nobody:
    index = -1

    def send(self, message: object) -> bool:
        return True


def the_disk_syncs_nothing(patch: pytest.MonkeyPatch) -> None:
    write = MemoryDisk.write

    def lazy(disk: Any, group: Any) -> Any:
        group.sync = False
        write(disk, group)

    patch.setattr(MemoryDisk, "write", lazy)


def reads_show_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(register.Register, "shown", property(lambda self: self.image, lambda self, image: None))
    digest = property(lambda self: register.digest_of(self.image, self.floor), lambda self, cached: None)
    patch.setattr(register.Register, "digest", digest)


def what_cannot_be_read_is_absent(patch: pytest.MonkeyPatch) -> None:
    init: Any = Registers.__init__

    def hopeful(registers: Any, *arguments: Any, **options: Any) -> None:
        init(registers, *arguments, **options)
        registers._engine = _Hopeful(registers._engine)

    patch.setattr(Registers, "__init__", hopeful)


class _Hopeful:
    """An engine that knows nothing of damage."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def load(self, key: bytes) -> Any:
        try:
            return self._engine.load(key)
        except StorageError:
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
