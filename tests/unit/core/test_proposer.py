"""R14-R19, R21: one round, from its promises to what may be told."""

from __future__ import annotations

from itertools import permutations

import pytest
from unit.core.made import (
    MS,
    ballot,
    cas,
    create,
    delete,
    entry,
    eventual,
    operation,
    promise,
    put,
    record,
    version,
)

from kvclient.wire.values import NO_BALLOT, NO_VERSION, Version
from kvnode.core.operation import APPLIED, CONFLICT, VALUE, Operation
from kvnode.core.proposer import CachedPromise, Promise, Round, Step
from kvnode.core.quorum import Quorums
from kvnode.core.record import NO_ENTRY, NO_RECORD, Entry, Record
from kvnode.core.version import ABSENT_VERSION

N3, N4, N5 = Quorums(3, 2, 2), Quorums(4, 2, 3), Quorums(5, 2, 4)
WAIT, PROPOSE, ANSWERED, CHOSEN, RETRY = Step.WAIT, Step.PROPOSE, Step.ANSWERED, Step.CHOSEN, Step.RETRY
NOTHING = promise()


def round_of(*operations: Operation, quorums: Quorums = N3, number: int = 9) -> Round:
    members = (1 << quorums.n) - 1
    made = Round(ballot(number), ballot(number + 1), list(operations) or [operation(put())], members, quorums)
    made.invariants()
    return made


def promised(made: Round, *promises: Promise) -> Step:
    step = WAIT
    for replica, state in enumerate(promises):
        assert step is WAIT
        step = made.on_promise(replica, state, MS)
        made.invariants()
    return step


def proposing(*operations: Operation, quorums: Quorums = N3) -> Round:
    made = round_of(*operations, quorums=quorums)
    assert promised(made, *[promise(committed=3)] * quorums.q1) is PROPOSE
    return made


# -- promises


def test_a_round_needs_a_following_ballot_above_its_own() -> None:
    with pytest.raises(AssertionError):
        Round(ballot(3), ballot(3), [operation()], 0b111, N3)


@pytest.mark.parametrize("quorums", [N3, N4, N5, Quorums(5, 3, 3), Quorums(1, 1, 1)])
def test_a_round_proposes_with_q1_promises_and_not_before(quorums: Quorums) -> None:
    """R15."""
    made = round_of(quorums=quorums)
    for replica in range(quorums.q1 - 1):
        assert made.on_promise(replica, NOTHING, MS) is WAIT
        assert not made.sent
    assert made.on_promise(quorums.q1 - 1, NOTHING, MS) is PROPOSE
    assert made.sent
    assert made.record.version == version(9)
    assert made.base_version == NO_VERSION, "it came with a prepare (R10)"


def test_a_second_promise_of_one_replica_and_one_of_a_stranger_do_not_count() -> None:
    """R28."""
    made = round_of()
    for replica in (0, 0, 3, 60):
        assert made.on_promise(replica, NOTHING, MS) is WAIT
    assert list(made.promises) == [0]


def test_a_promise_after_the_proposal_changes_nothing() -> None:
    """R18: two different records are never sent with one ballot."""
    made = proposing()
    before = made.record
    assert made.on_promise(2, promise(accepted=8), MS) is WAIT
    assert made.record == before


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_base_is_the_record_with_the_greatest_ballot_whoever_reports_it(order: tuple[int, ...]) -> None:
    """R15."""
    states = [promise(committed=3), promise(accepted=5, value=b"five"), promise(accepted=4)]
    made = round_of(operation(), quorums=Quorums(3, 3, 2))
    assert promised(made, *[states[index] for index in order]) is PROPOSE
    assert made.record == record(5, b"five")


def test_the_base_is_chosen_by_ballot_and_never_by_version() -> None:
    """R15, M4a: an identity round gives an old version a great ballot; a dead proposal has a greater version."""
    carried = promise(committed=3)._replace(committed_ballot=ballot(7))
    made = round_of(operation())
    assert promised(made, promise(accepted=6, value=b"dead"), carried) is ANSWERED
    assert made.results[0].body == record(3).body


def test_an_accepted_entry_below_the_committed_ballot_is_dead() -> None:
    """R15."""
    state = promise(accepted=4, value=b"dead")._replace(committed_ballot=ballot(6), committed=record(6))
    assert state.greatest == (ballot(6), record(6))
    assert promise(accepted=6, committed=4).greatest == (ballot(6), record(6))
    assert NOTHING.greatest == (b"", NO_RECORD)


# -- the overlay (R15)


def test_an_entry_that_counts_is_folded_and_must_be_accepted() -> None:
    """R15, R20, M8d."""
    made = round_of(operation())
    assert promised(made, promise(committed=3), promise(committed=3, overlay=entry(3, 1, b"e"))) is PROPOSE
    assert made.record.content == b"\x00e"
    assert made.record.version == Version(ballot(3) + eventual(3, 1)[28:])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_latest_of_several_entries_that_count_is_folded(order: tuple[int, ...]) -> None:
    """R15: last write wins."""
    states = [promise(committed=3, overlay=entry(3, at)) for at in (1, 7, 4)]
    made = round_of(operation(), quorums=Quorums(3, 3, 2))
    assert promised(made, *[states[index] for index in order]) is PROPOSE
    assert made.record.version[28:] == eventual(3, 7)[28:]


@pytest.mark.parametrize("late", [entry(2, 99), entry(0, 99)])
def test_an_entry_that_had_not_seen_the_base_is_superseded(late: Entry) -> None:
    """R15, C4: whatever its stamp."""
    made = round_of(operation())
    assert promised(made, promise(committed=3, overlay=late), promise(committed=3)) is ANSWERED
    assert made.results[0].body == record(3).body


def test_an_entry_of_a_change_that_the_quorum_missed_proves_the_round_stale() -> None:
    """R15: start again above."""
    made = round_of(operation(put()), number=2)
    assert promised(made, promise(committed=1), promise(overlay=entry(5, 1))) is RETRY
    assert made.seen == ballot(5)
    assert not made.sent
    made.clear_doubt(0b111)
    assert not made.operations[0].was_proposed


def test_an_entry_that_counts_does_not_hide_one_that_proves_the_round_stale() -> None:
    made = round_of(operation())
    states = promise(committed=3, overlay=entry(3, 1)), promise(committed=3, overlay=entry(5, 1))
    assert promised(made, *states) is RETRY


def test_an_entry_flagged_absent_counts_over_nothing_and_over_a_settled_tombstone() -> None:
    """R15, R38."""
    over_nothing, over_settled, over_unsettled = round_of(operation()), round_of(operation()), round_of(operation())
    tombstone = promise(committed=3, value=b"")
    assert promised(over_nothing, NOTHING, promise(overlay=entry(0, 1))) is PROPOSE
    assert over_nothing.record.version == eventual(0, 1)
    settled = promise(committed=3, value=b"", settled=True)
    assert promised(over_settled, settled, tombstone._replace(overlay=entry(0, 1))) is PROPOSE
    assert over_settled.record.content == b"\x00e"
    assert promised(over_unsettled, tombstone, tombstone._replace(overlay=entry(0, 1))) is ANSWERED


def test_a_settled_mark_of_another_ballot_does_not_make_the_base_absent() -> None:
    settled = promise(committed=3, value=b"", settled=True)
    made = round_of(operation())
    assert promised(made, settled, promise(accepted=5)._replace(overlay=entry(0, 1))) is PROPOSE
    assert made.record == record(5)


# -- evidence (R17)


EVIDENCE = [
    (N3, [promise(accepted=3), promise(accepted=3)], ANSWERED),
    (N3, [promise(accepted=3), promise(committed=3)], ANSWERED),
    (N3, [promise(committed=3), NOTHING], ANSWERED),
    (N3, [promise(accepted=3), NOTHING], PROPOSE),
    (N3, [promise(accepted=5), promise(committed=3)], PROPOSE),
    (N3, [promise(5, 3), promise(5, 3)], ANSWERED),
    (N3, [promise(5, 3), promise(committed=3)], PROPOSE),
    (N3, [NOTHING, NOTHING], ANSWERED),
    (N4, [promise(accepted=3), promise(accepted=3)], PROPOSE),
    (N4, [promise(committed=3), NOTHING], ANSWERED),
    (N4, [promise(committed=3), promise(accepted=3)], ANSWERED),
    (N4, [promise(accepted=5), promise(committed=3)], PROPOSE),
    (N4, [NOTHING, NOTHING], ANSWERED),
    (N5, [promise(accepted=3), promise(accepted=3)], PROPOSE),
    (N5, [promise(committed=3), NOTHING], ANSWERED),
    (N5, [NOTHING, NOTHING], ANSWERED),
    (Quorums(4, 3, 2), [promise(accepted=3), promise(accepted=3), NOTHING], ANSWERED),
    (Quorums(4, 3, 2), [promise(accepted=3), NOTHING, NOTHING], PROPOSE),
    (Quorums(4, 3, 2), [NOTHING, NOTHING, NOTHING], ANSWERED),
    (Quorums(5, 3, 3), [promise(accepted=3), promise(accepted=3), NOTHING], PROPOSE),
    (Quorums(5, 3, 3), [promise(accepted=3), promise(committed=3), promise(accepted=3)], ANSWERED),
]


@pytest.mark.parametrize(("quorums", "promises", "expected"), EVIDENCE)
@pytest.mark.parametrize("work", [operation(), operation(cas(version(1)))])
def test_what_changes_nothing_is_told_after_the_promises_only_if_they_prove_the_base_chosen(
    quorums: Quorums, promises: list[Promise], expected: Step, work: Operation
) -> None:
    """R17, C8: a base reported by Q2, or marked once and the maximum of max(Q1, N-Q2+1); else it is accepted first."""
    for order in permutations(promises):
        made = round_of(Operation(work.steps, work.session, 1, 1, 0, MS, MS + 5000), quorums=quorums)
        assert promised(made, *order) is expected
        assert made.results[0].kind == (CONFLICT if work.steps else VALUE)
        assert made.sent is (expected is PROPOSE)


def test_more_replies_than_promises_are_needed_where_q1_is_smaller_than_a_read_set() -> None:
    """R17: with one mark, the maximum of N-Q2+1 replies; Q1 alone might miss a chosen change."""
    quorums = Quorums(5, 4, 2)
    assert quorums.anchored == 4
    made = round_of(operation(), quorums=quorums)
    assert promised(made, promise(committed=3), NOTHING, NOTHING, NOTHING) is ANSWERED


def test_an_unproven_base_is_accepted_with_its_own_version() -> None:
    """R7, R17: an identity round."""
    made = round_of(operation(create()))
    assert promised(made, promise(accepted=3), NOTHING) is PROPOSE
    assert made.record == record(3)
    assert made.results[0].kind == CONFLICT


def test_absence_is_proved_by_q1_empty_promises() -> None:
    """R17: what was chosen below has a member among them; a tombstone would supersede eventual writes unseen."""
    made = round_of(operation(), operation(delete()), quorums=N4)
    assert promised(made, NOTHING, NOTHING) is ANSWERED
    assert [result.kind for result in made.results] == [VALUE, APPLIED]


def test_a_window_without_a_record_lives_in_one_that_supersedes_nothing() -> None:
    """R7, R23: a later attempt's refusal changes nothing, so an eventual write over "no such key" still counts."""
    made = round_of(operation(cas(version(1)), attempt=2))
    assert promised(made, NOTHING, NOTHING) is PROPOSE
    assert made.record.is_tombstone
    assert made.record.version == ABSENT_VERSION
    later = round_of(operation(), number=9)
    carrier = Promise(ballot(5), made.record, NO_BALLOT, NO_RECORD, NO_ENTRY, False, NO_BALLOT)
    assert promised(later, carrier, carrier._replace(overlay=entry(0, 1))) is PROPOSE
    assert later.record.content == b"\x00e"


def test_a_later_attempts_refusal_is_proposed_whatever_the_evidence() -> None:
    """R17, R23."""
    made = round_of(operation(create(), attempt=2))
    assert promised(made, promise(committed=3), promise(committed=3)) is PROPOSE
    assert made.record.window


def test_what_was_answered_on_evidence_was_not_proposed() -> None:
    made = round_of(operation())
    assert promised(made, promise(committed=3), promise(committed=3)) is ANSWERED
    assert not made.sent
    assert made.record == NO_RECORD
    assert not made.operations[0].was_proposed
    assert not made.operations[0].is_in_doubt


# -- acknowledgements (R16)


@pytest.mark.parametrize("quorums", [N3, N4, N5, Quorums(4, 3, 2)])
def test_a_round_is_chosen_by_q2_acknowledgements_and_not_before(quorums: Quorums) -> None:
    made = proposing(quorums=quorums)
    for replica in range(quorums.q2 - 1):
        assert made.on_accepted(replica, NO_ENTRY) is WAIT
    assert made.on_accepted(quorums.n - 1, NO_ENTRY) is CHOSEN


def test_duplicate_and_foreign_acknowledgements_do_not_count() -> None:
    """R28."""
    made = proposing()
    for replica in (1, 1, 3, 17):
        assert made.on_accepted(replica, NO_ENTRY) is WAIT


def test_an_acknowledgement_before_the_proposal_is_nobodys() -> None:
    made = round_of()
    assert made.on_accepted(0, NO_ENTRY) is WAIT
    assert made.tally.yes == 0


def test_an_acknowledgement_after_a_refusal_by_the_same_replica_does_not_count() -> None:
    made = proposing()
    made.on_nack(0, ballot(12))
    assert made.on_accepted(0, NO_ENTRY) is WAIT
    assert made.on_accepted(1, NO_ENTRY) is WAIT
    assert made.on_accepted(2, NO_ENTRY) is CHOSEN


def test_more_acknowledgements_are_waited_for_when_asked_for_and_never_fewer() -> None:
    """R27."""
    more, fewer = operation(put()), operation(put())
    more.copies, fewer.copies = 3, 1
    made = proposing(more)
    assert [made.on_accepted(replica, NO_ENTRY) for replica in range(3)] == [WAIT, WAIT, CHOSEN]
    made = proposing(fewer)
    assert [made.on_accepted(replica, NO_ENTRY) for replica in range(2)] == [WAIT, CHOSEN]


# -- refusals (R18)


def test_a_refused_prepare_ends_the_round_once_q1_is_impossible_and_tells_what_to_outbid() -> None:
    """R9, R18."""
    made = round_of()
    assert made.on_nack(0, ballot(20)) is WAIT
    assert made.on_nack(1, ballot(15)) is RETRY
    assert made.seen == ballot(20), "the maximum, not the latest"


def test_a_refused_accept_ends_the_round_once_q2_is_impossible() -> None:
    made = proposing(quorums=N4)
    assert made.on_nack(0, ballot(20)) is WAIT
    assert made.on_refused(1) is RETRY


def test_a_lost_link_counts_as_no_reply_that_will_come() -> None:
    made = round_of()
    assert made.on_lost(0) is WAIT
    assert made.on_lost(0) is WAIT
    assert made.on_lost(5) is WAIT
    assert made.on_lost(2) is RETRY


def test_a_loss_after_the_acknowledgement_takes_nothing_back() -> None:
    made = proposing()
    made.on_accepted(0, NO_ENTRY)
    assert made.on_lost(0) is WAIT
    assert made.on_accepted(1, NO_ENTRY) is CHOSEN


# -- doubt (R21)


def test_what_is_proposed_is_in_doubt_and_no_first_try_any_more() -> None:
    work = operation(put())
    proposing(work)
    assert work.is_in_doubt
    assert work.was_proposed
    assert not work.is_first_try


def test_doubt_is_cleared_only_if_all_acceptors_that_were_reached_refused() -> None:
    """R21: no answer is no nack."""
    work = operation(put())
    made = proposing(work)
    made.on_nack(0, ballot(20))
    made.on_refused(1)
    made.clear_doubt(0b111)
    assert work.is_in_doubt
    made.clear_doubt(-1)
    assert work.is_in_doubt
    made.clear_doubt(0b011)
    assert not work.is_in_doubt
    assert work.was_proposed


@pytest.mark.parametrize("reached", [0b001, 0b111])
def test_a_lost_link_is_no_refusal(reached: int) -> None:
    work = operation(put())
    made = proposing(work)
    made.on_lost(0)
    made.on_nack(1, ballot(20))
    made.clear_doubt(reached)
    assert work.is_in_doubt


def test_an_accept_that_reached_nobody_leaves_no_doubt() -> None:
    work = operation(put())
    proposing(work).clear_doubt(0)
    assert not work.is_in_doubt


def test_a_refused_prepare_refuses_no_record() -> None:
    """The nacks of phase 1 say nothing of the accept."""
    work = operation(put())
    made = round_of(work)
    made.on_nack(2, ballot(4))
    assert promised(made, promise(committed=3), promise(committed=3)) is PROPOSE
    made.clear_doubt(0b100)
    assert work.is_in_doubt


def test_a_round_does_not_clear_the_doubt_of_an_earlier_one() -> None:
    """R21: *every* attempt must have been refused."""
    work = operation(put())
    proposing(work)
    again = proposing(work)
    for replica in range(3):
        again.on_nack(replica, ballot(20))
    again.clear_doubt(0b111)
    assert work.is_in_doubt


# -- the cached promise (R19)


def cached(number: int = 9, base: Record | None = None, overlay: Entry = NO_ENTRY) -> CachedPromise:
    return CachedPromise(ballot(number), base or record(3), ballot(3), overlay)


def test_a_chosen_round_leaves_exactly_the_ballot_that_its_acceptors_promised() -> None:
    """R19."""
    made = proposing()
    made.on_accepted(0, entry(9, 2))
    made.on_accepted(1, entry(9, 1))
    left = made.cached_promise()
    assert left == (ballot(10), made.record, ballot(9), entry(9, 2)), "the latest entry that the acks showed"


def test_a_cached_promise_starts_in_phase_2_and_sends_the_version_of_its_base() -> None:
    """R10, R19."""
    made = round_of(operation(put()))
    assert made.begin_cached(cached(), NO_ENTRY, MS) is PROPOSE
    assert made.base_version == version(3)
    assert made.record.version == version(9)
    made.invariants()


def test_a_cached_promise_is_used_at_its_own_ballot_only() -> None:
    """R19: `next` jumped loses an update."""
    with pytest.raises(AssertionError):
        round_of(operation()).begin_cached(cached(8), NO_ENTRY, MS)


@pytest.mark.parametrize(
    ("home", "acks", "folded"),
    [
        (entry(3, 5), NO_ENTRY, 5),
        (NO_ENTRY, entry(3, 5), 5),
        (entry(3, 5), entry(3, 6), 6),
        (entry(3, 6), entry(3, 5), 6),
        (entry(3, 6), entry(2, 99), 6),
    ],
)
def test_a_cached_round_folds_what_home_and_the_acks_showed(home: Entry, acks: Entry, folded: int) -> None:
    """R19: an ack that promises `next` shows what a promise shows."""
    made = round_of(operation())
    assert made.begin_cached(cached(overlay=acks), home, MS) is PROPOSE
    assert made.base_version == eventual(3, folded)
    assert made.record.version[28:] == eventual(3, folded)[28:]


@pytest.mark.parametrize("late", [entry(2, 99), entry(0, 99)])
def test_a_cached_round_passes_over_entries_that_had_not_seen_its_base(late: Entry) -> None:
    made = round_of(operation())
    assert made.begin_cached(cached(overlay=late), late, MS) is PROPOSE
    assert made.record == record(3)


@pytest.mark.parametrize(
    ("home", "acks"), [(entry(5, 1), NO_ENTRY), (NO_ENTRY, entry(5, 1)), (entry(3, 1), entry(5, 1))]
)
def test_a_cached_promise_below_a_change_that_an_entry_names_may_not_be_used(home: Entry, acks: Entry) -> None:
    """R15, R19."""
    made = round_of(operation(put()))
    assert made.begin_cached(cached(overlay=acks), home, MS) is RETRY
    assert not made.sent
    assert not made.operations[0].was_proposed


@pytest.mark.parametrize(
    ("base", "home"),
    [(record(3, expires_at_ms=MS + 10**9), NO_ENTRY), (record(3), entry(3, 1, expires_at_ms=MS + 10**9))],
)
def test_a_cached_promise_is_not_used_on_a_record_with_an_expiry(base: Record, home: Entry) -> None:
    """R63: its ballot's time is older than what may have expired since."""
    made = round_of(operation(put()))
    assert made.begin_cached(cached(base=base), home, MS) is RETRY
    assert not made.sent


def test_a_cached_round_answers_nothing_without_its_accept() -> None:
    """R19, M6d: no negative answer from the cache."""
    made = round_of(operation(create()))
    assert made.begin_cached(cached(), NO_ENTRY, MS) is PROPOSE
    assert made.results[0].kind == CONFLICT
    assert made.record == record(3)


def test_a_batch_gets_one_result_each_in_order() -> None:
    """R14."""
    made = proposing(operation(put(b"a")), operation(), operation(create(), sequence=2))
    assert [result.kind for result in made.results] == [APPLIED, VALUE, CONFLICT]
    assert made.results[1].body == made.record.body
