"""Rounds, reads and commits that forget what makes them safe (R9-R20, R26, R36, 4a)."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient.wire.values import Ballot
from kvnode.core import register
from kvnode.core.proposer import CachedPromise, Promise, Round
from kvnode.core.quorum import Quorums
from kvnode.core.version import ballot_stamp
from kvnode.service.eventual import Eventual
from kvnode.service.replica import Replica


def the_mark_is_lost(patch: pytest.MonkeyPatch) -> None:
    committed = register._committed

    def forgetful(image: Any, ballot: Any, record: Any) -> Any:
        done = committed(image, ballot, record)
        return done._replace(committed_ballot=image.committed_ballot, committed=image.committed)

    patch.setattr(register, "_committed", forgetful)


def accepted_goes_before_committed(patch: pytest.MonkeyPatch) -> None:
    def greatest(promise: Promise) -> Any:
        if promise.accepted_ballot:
            return b"\xff" + promise.accepted_ballot, promise.accepted
        return promise.committed_ballot, promise.committed

    patch.setattr(Promise, "greatest", property(greatest))


def the_base_is_chosen_by_version(patch: pytest.MonkeyPatch) -> None:
    def greatest(promise: Promise) -> Any:
        best = max(promise.accepted, promise.committed, key=lambda record: record.version)
        return best.version, best

    patch.setattr(Promise, "greatest", property(greatest))


def the_cached_ballot_jumps(patch: pytest.MonkeyPatch) -> None:
    honest, begin = Round.cached_promise, Round.begin_cached

    def jumping(round_: Round) -> CachedPromise:
        cached = honest(round_)
        return cached._replace(ballot=Ballot((ballot_stamp(cached.ballot) + (1 << 24)).to_bytes(8, "big") + bytes(20)))

    def begin_above(round_: Any, cached: Any, home: Any, now_ms: Any) -> Any:
        round_.following = Ballot(round_.ballot[:27] + b"\x01")
        return begin(round_, cached, home, now_ms)

    patch.setattr(Round, "cached_promise", jumping)
    patch.setattr(Round, "begin_cached", begin_above)


def one_acknowledgement_is_enough(patch: pytest.MonkeyPatch) -> None:
    propose = Round._propose

    def hasty(round_: Any, outcome: Any) -> Any:
        step = propose(round_, outcome)
        round_.tally.need = 1
        return step

    patch.setattr(Round, "_propose", hasty)


def repair_copies_what_was_accepted(patch: pytest.MonkeyPatch) -> None:
    def repair(eventual: Any, index: Any, key: Any, state: Any) -> Any:
        eventual._commits.repair(index, key, *state.greatest)

    patch.setattr(Eventual, "_repair", repair)


def floors_are_ignored(patch: pytest.MonkeyPatch) -> None:
    init = register.Register.__init__
    patch.setattr(register.Register, "__init__", lambda self, image, promised, floor=b"": init(self, image, promised))


def one_reply_answers_a_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quorums, "read", property(lambda quorums: 1))


def the_greatest_seen_is_returned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("kvnode.core.reading.FastRead._is_chosen", lambda read, ballot: True)


def read_sets_are_too_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quorums, "read", property(lambda quorums: quorums.n - quorums.q2))


def the_commit_falls_with_the_accept(patch: pytest.MonkeyPatch) -> None:
    honest = Replica.on_accept

    def careless(replica: Any, link: Any, message: Any) -> Any:
        if message[4] < replica._registers.get(message[3]).promise:
            message = [*message[:9], b""]
        honest(replica, link, message)

    patch.setattr(Replica, "on_accept", careless)


def prepares_are_granted_at_equality(patch: pytest.MonkeyPatch) -> None:
    prepare = register.Register.prepare

    def lax(self: register.Register, ballot: Ballot, physical_ms: int, max_offset_ms: int) -> register.Verdict:
        if ballot == self.promise:
            self.promised = ballot
            return register.Verdict.DONE
        return prepare(self, ballot, physical_ms, max_offset_ms)

    patch.setattr(register.Register, "prepare", lax)
