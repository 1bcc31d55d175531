"""R20, R37: which digests prove the current record, and which only a round can answer."""

from __future__ import annotations

from itertools import permutations

import pytest
from unit.core.made import ballot, entry, image

from kvclient.wire.values import NO_BALLOT
from kvnode.core.quorum import Quorums
from kvnode.core.reading import FastRead, Reading
from kvnode.core.record import EMPTY_IMAGE, Image
from kvnode.core.register import digest_of

N3, N4, N4_READ_LIGHT, N5, N5_READ_LIGHT = (
    Quorums(3, 2, 2),
    Quorums(4, 3, 2),
    Quorums(4, 2, 3),
    Quorums(5, 3, 3),
    Quorums(5, 2, 4),
)
SIZES = [N3, N4, N4_READ_LIGHT, N5, N5_READ_LIGHT, Quorums(1, 1, 1)]
PENDING, SETTLED, UNSETTLED, ROUND = Reading.PENDING, Reading.SETTLED, Reading.UNSETTLED, Reading.ROUND

C3, A3, A5, NOTHING = image(committed=3), image(accepted=3), image(accepted=5), EMPTY_IMAGE


def gather(quorums: Quorums, *states: Image, floor: int = 0, is_second: bool = False) -> tuple[FastRead, Reading]:
    read, reading = FastRead(quorums, is_second=is_second), PENDING
    for replica, state in enumerate(states):
        reading = read.on_digest(replica, digest_of(state, ballot(floor) if floor else NO_BALLOT))
    return read, reading


@pytest.mark.parametrize("quorums", SIZES)
def test_fewer_replies_than_meet_every_accept_quorum_prove_nothing(quorums: Quorums) -> None:
    """R20, M10a."""
    for count in range(1, quorums.read):
        assert gather(quorums, *[C3] * count)[1] is PENDING


@pytest.mark.parametrize("quorums", SIZES)
def test_one_mark_on_the_greatest_ballot_of_a_read_set_settles_it(quorums: Quorums) -> None:
    """R20, R26: also for N=5 (2,4), where two replies suffice."""
    read, reading = gather(quorums, *[NOTHING] * (quorums.read - 1), C3)
    assert reading is SETTLED
    assert read.ballot == ballot(3)
    assert read.laggards == list(range(quorums.read - 1))


@pytest.mark.parametrize("quorums", SIZES)
def test_accepted_by_q2_replies_settles_and_by_one_less_does_not(quorums: Quorums) -> None:
    """R20: copies are votes (C9)."""
    held = max(quorums.q2, quorums.read)
    assert gather(quorums, *[A3] * held)[1] is SETTLED
    fewer = [A3] * (quorums.q2 - 1) + [NOTHING] * (quorums.n - quorums.q2 + 1)
    assert gather(quorums, *fewer)[1] is (UNSETTLED if quorums.q2 > 1 else SETTLED)


@pytest.mark.parametrize("quorums", SIZES)
def test_no_record_in_a_read_set_means_absent(quorums: Quorums) -> None:
    """R20."""
    read, reading = gather(quorums, *[NOTHING] * quorums.read)
    assert reading is SETTLED
    assert read.ballot == NO_BALLOT
    assert read.laggards == []


def test_a_mark_below_the_greatest_ballot_proves_nothing() -> None:
    """R20, M4b: the maximum seen may be chosen, or not."""
    read, reading = gather(N3, C3, A5)
    assert reading is PENDING
    assert read.is_inconclusive
    assert read.on_digest(2, digest_of(C3, NO_BALLOT)) is UNSETTLED


def test_a_further_reply_may_settle_what_was_inconclusive() -> None:
    """R20: test again at each further reply."""
    read, reading = gather(N3, C3, A5, A5)
    assert reading is SETTLED
    assert read.ballot == ballot(5)
    assert read.laggards == [0]


def test_equal_ballots_and_not_equal_values_are_counted() -> None:
    """M4a: the same value at two ballots is no quorum."""
    same_value_elsewhere = A5._replace(accepted=A3.accepted)
    assert gather(N3, A3, same_value_elsewhere)[1] is PENDING


def test_a_replica_that_accepted_above_what_it_committed_reports_both() -> None:
    assert gather(N3, image(5, 3), C3)[1] is PENDING
    assert gather(N3, image(5, 3), image(5, 3))[1] is SETTLED


def test_a_second_digest_of_one_replica_does_not_count() -> None:
    """R28."""
    read = FastRead(N3)
    for _ in range(3):
        assert read.on_digest(1, digest_of(C3, NO_BALLOT)) is PENDING
    assert read.replies == 1
    assert not read.is_inconclusive


def test_more_replies_than_the_quorum_are_waited_for_when_asked_for() -> None:
    """R27."""
    read = FastRead(N3, needed=3)
    assert read.on_digest(0, digest_of(C3, NO_BALLOT)) is PENDING
    assert read.on_digest(1, digest_of(C3, NO_BALLOT)) is PENDING
    assert not read.is_inconclusive
    assert read.on_digest(2, digest_of(C3, NO_BALLOT)) is SETTLED
    assert read.answered == [0, 1, 2]


def test_fewer_replies_than_the_quorum_are_never_enough() -> None:
    """R27: never lower."""
    read = FastRead(N3, needed=1)
    assert read.on_digest(0, digest_of(C3, NO_BALLOT)) is PENDING


def test_a_malformed_digest_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="digest"):
        FastRead(N3).on_digest(0, b"")


# -- the overlay


@pytest.mark.parametrize(
    "states",
    [
        (C3, image(committed=3, overlay=entry(3, 1))),
        (C3, image(overlay=entry(3, 1))),
        (C3, image(overlay=entry(4, 1))),
        (NOTHING, image(overlay=entry(0, 1))),
        (NOTHING, image(overlay=entry(4, 1))),
        (image(committed=3, value=b"", settled=True), image(overlay=entry(0, 1))),
    ],
)
def test_an_entry_that_counts_or_proves_the_replies_stale_sends_the_read_to_a_round(states: tuple[Image, ...]) -> None:
    """R20, M8d: an overlay value is absorbed by an accept before a strong read returns it."""
    for order in permutations(states):
        assert gather(N3, *order)[1] is ROUND


@pytest.mark.parametrize("late", [entry(2, 99), entry(0, 99)])
def test_an_entry_that_had_not_seen_the_record_does_not_hold_a_read_up(late: object) -> None:
    assert gather(N3, C3, image(overlay=late))[1] is SETTLED  # type: ignore[arg-type]


def test_an_entry_that_is_folded_already_does_not_hold_a_read_up() -> None:
    folded = image(committed=3)
    folded = folded._replace(committed=folded.committed._replace(body=entry(3, 1)[1:]))
    assert gather(N3, folded, image(overlay=entry(3, 1)))[1] is SETTLED


def test_an_entry_that_counts_over_a_record_not_yet_proved_sends_the_read_to_a_round_too() -> None:
    assert gather(N3, A5, image(overlay=entry(5, 1)))[1] is ROUND


def test_a_settled_mark_makes_the_tombstone_absent_whoever_answered_first() -> None:
    """R15, R38: it did not, if a replica that had only accepted the tombstone was the first."""
    tombstone = image(accepted=3, value=b"")
    settled = image(committed=3, value=b"", settled=True, overlay=entry(0, 1))
    for order in permutations([tombstone, settled]):
        assert gather(N3, *order)[1] is ROUND


# -- purge (R37)


def test_a_record_below_the_floor_of_an_absent_reply_is_asked_about_once_more() -> None:
    """R37: the read may have begun before a purge and counted an old record with an absent one."""
    for order in permutations([NOTHING, C3]):
        assert gather(N3, *order, floor=3)[1] is PENDING
    assert gather(N3, NOTHING, C3, C3, floor=3)[1] is UNSETTLED


def test_a_second_gathering_counts_such_replies_as_they_are() -> None:
    """R37: they were sent after the floor was seen."""
    read, reading = gather(N3, NOTHING, C3, floor=3, is_second=True)
    assert reading is SETTLED
    assert read.ballot == ballot(3)


def test_a_floor_below_the_record_or_a_settled_tombstone_is_no_purge_that_was_crossed() -> None:
    """R37, R38."""
    assert gather(N3, NOTHING, C3, floor=2)[1] is SETTLED
    assert gather(N3, NOTHING, image(committed=3, value=b"", settled=True), floor=3)[1] is SETTLED


def test_a_second_gathering_that_proves_nothing_ends_in_a_round() -> None:
    """R20: ask once more, then run an identity round; the caller does when it is UNSETTLED again."""
    read, reading = gather(N3, C3, A5, NOTHING, is_second=True)
    assert reading is UNSETTLED
    assert read.is_second
