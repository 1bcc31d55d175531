"""R14-R16, R23-R24, R63: what a round makes of a key, and which results it may tell on its promises alone (R17)."""

from __future__ import annotations

import pytest
from unit.core.made import (
    MS,
    ballot,
    body,
    cas,
    create,
    delete,
    entry,
    eventual,
    operation,
    put,
    record,
    version,
)

from kvclient.wire.values import NO_SBALLOT, NO_VERSION, Version, body_content, body_times, body_version
from kvnode.core import window as windows
from kvnode.core.change import Change, apply
from kvnode.core.operation import APPLIED, CONFLICT, NOT_APPLIED, UNKNOWN, VALUE, Operation
from kvnode.core.record import NO_ENTRY, NO_RECORD, Entry, Record
from kvnode.core.window import KEEP_AFTER_DEADLINE_MS, NO_VERSION_PADDED, Completed, Window

BALLOT = ballot(9)
BASE = record(3, b"old")


def run(
    *operations: Operation, base: Record = BASE, entry: Entry = NO_ENTRY, now_ms: int = MS, at_ms: int | None = None
) -> Change:
    return apply(BALLOT if at_ms is None else ballot(9, ms=at_ms), base, entry, list(operations), now_ms)


def window_of(change: Change) -> Window:
    made = Window.decode(change.record.window)
    made.invariants()
    return made


def remembered(*entries: tuple[int, int, Completed], base: Record = BASE, session: bytes = b"s" * 8) -> Record:
    made = Window()
    for mark, sequence, completed in entries:
        made.record(session, mark, sequence, *completed)
    return base._replace(window=made.encode())


# -- reads and the base


def test_a_read_keeps_the_base_and_its_version_and_needs_only_evidence() -> None:
    """R7, R17."""
    change = run(operation())
    assert change.record == BASE
    assert change.results == [(VALUE, NO_VERSION, BASE.body, "", False, None, b"")]
    assert not change.needs_accept


@pytest.mark.parametrize("base", [NO_RECORD, record(3, b"")])
def test_a_read_of_an_absent_or_deleted_key_shows_nothing_and_makes_no_tombstone(base: Record) -> None:
    change = run(operation(), base=base)
    assert body_content(change.results[0].body) == b""
    assert change.record == base
    assert not change.needs_accept


# -- the overlay


def test_a_fold_takes_the_entrys_value_and_stamp_and_the_bases_sballot() -> None:
    """R7, R15."""
    change = run(operation(), entry=entry(3, 5, b"e", expires_at_ms=MS + 10**6))
    assert change.record.content == b"\x00e"
    assert change.record.expires_at_ms == MS + 10**6
    assert change.record.version == Version(ballot(3) + eventual(3, 5)[28:])
    assert change.results[0].body == change.record.body
    assert change.needs_accept


def test_a_fold_over_nothing_has_no_sballot_and_keeps_the_entrys_version() -> None:
    """R7."""
    change = run(operation(), base=NO_RECORD, entry=entry(0, 5))
    assert change.record.version == eventual(0, 5)
    assert change.record.version[:28] == NO_SBALLOT


def test_a_fold_keeps_the_registers_request_window() -> None:
    """R15, R24, C14: else the retry of an applied create answers "did not apply"."""
    base = remembered((1, 1, Completed(windows.APPLIED, MS + 5000, version(3))))
    change = run(operation(create(), attempt=2), base=base, entry=entry(3, 5))
    assert change.results[0].kind == APPLIED
    assert change.results[0].version == version(3)


def test_operations_see_the_folded_value() -> None:
    change = run(operation(cas(BASE.version)), operation(create(), sequence=2), base=BASE, entry=entry(3, 5, b"e"))
    assert [result.kind for result in change.results] == [CONFLICT, CONFLICT]
    assert body_content(change.results[0].body) == b"\x00e"


def test_a_folded_delete_leaves_the_key_absent() -> None:
    """R34."""
    change = run(operation(), operation(create()), entry=entry(3, 5, b""))
    assert body_content(change.results[0].body) == b""
    assert change.results[1].kind == APPLIED


# -- expiry (R63)


@pytest.mark.parametrize(("expires_at_ms", "is_expired"), [(MS - 1, True), (MS, True), (MS + 1, False), (0, False)])
def test_a_value_is_expired_iff_its_time_is_not_above_the_ballots(expires_at_ms: int, is_expired: bool) -> None:
    """R63: the ballot's time decides, not a clock; expiry is a change with a new version."""
    change = run(operation(), base=record(3, b"old", expires_at_ms), now_ms=MS + 10**6)
    assert change.record.is_tombstone is is_expired
    assert change.needs_accept is is_expired
    assert change.record.version == (version(9) if is_expired else version(3))
    assert bool(body_content(change.results[0].body)) is not is_expired


def test_an_expired_tombstone_is_not_made_twice() -> None:
    assert not run(operation(), base=record(3, b"", 1)).needs_accept


def test_changes_after_an_expiry_are_later_than_its_tombstone() -> None:
    """R7: each change of the round has its own version."""
    change = run(operation(create()), base=record(3, b"old", 1))
    assert change.results[0].version == version(9, 1)


def test_a_folded_entry_may_be_expired_itself() -> None:
    change = run(operation(), entry=entry(3, 5, expires_at_ms=MS))
    assert change.record.is_tombstone
    assert change.record.version == version(9)


def test_the_expiry_of_a_write_is_its_own_and_the_time_of_its_making_is_the_operations() -> None:
    """R16, R63: fixed before the first attempt."""
    change = run(operation(put(b"x", MS + 77)))
    assert body_times(change.record.body) == (MS + 77, MS)


# -- versions of a batch (R7, R14)


def test_each_operation_of_a_batch_has_its_own_version_in_order() -> None:
    """R7, R14."""
    change = run(operation(put(b"a")), operation(delete(), sequence=2), operation(), operation(put(b"b"), sequence=3))
    assert [result.version for result in change.results] == [version(9), version(9, 1), NO_VERSION, version(9, 2)]
    assert body_content(change.results[2].body) == b"", "the read between sees the delete"
    assert change.record.version == version(9, 2)
    assert change.record.content == b"\x00b"


def test_an_operation_sees_the_version_of_the_one_before_it_in_the_batch() -> None:
    change = run(operation(put(b"a")), operation(cas(version(9)), sequence=2), operation(cas(version(9)), sequence=3))
    assert [result.kind for result in change.results] == [APPLIED, APPLIED, CONFLICT]
    assert body_version(change.results[2].body) == version(9, 1)


# -- checks


@pytest.mark.parametrize(
    ("base", "step"),
    [
        (BASE, create()),
        (BASE, cas(version(2))),
        (BASE, cas(version(3, 1))),
        (BASE, cas(NO_VERSION)),
        (BASE, delete(version(2))),
        (NO_RECORD, cas(version(3))),
        (NO_RECORD, cas(NO_VERSION)),
        (record(3, b""), cas(version(3))),
        (record(3, b""), delete(version(3))),
        (record(3, b"old", 1), cas(version(3))),
    ],
)
def test_a_check_that_fails_is_a_conflict_that_shows_what_stands(base: Record, step: object) -> None:
    """An unparsable ETag is a mismatch; a deleted or expired key has no ETag."""
    change = run(operation(step), base=base)  # type: ignore[arg-type]
    assert change.results[0].kind == CONFLICT
    is_there = bool(base.content) and not base.expires_at_ms
    assert body_content(change.results[0].body) == (base.content if is_there else b"")


@pytest.mark.parametrize(
    ("base", "step"),
    [
        (BASE, cas(version(3))),
        (BASE, delete(version(3))),
        (BASE, put()),
        (NO_RECORD, create()),
        (record(3, b""), create()),
        (record(3, b"old", 1), create()),
    ],
)
def test_a_check_that_holds_is_applied_and_recorded(base: Record, step: object) -> None:
    """R23: "applied" is always recorded."""
    change = run(operation(step), base=base)  # type: ignore[arg-type]
    result = change.results[0]
    assert result.kind == APPLIED
    assert result.version == change.record.version
    assert window_of(change).find(b"s" * 8, 1) == Completed(windows.APPLIED, MS + 5000, result.version)
    assert change.needs_accept


# -- what is recorded (R23)


@pytest.mark.parametrize("step", [create(), cas(version(2))])
def test_the_refusal_of_a_first_attempt_is_told_on_evidence_and_not_recorded(step: object) -> None:
    """R17, R23."""
    change = run(operation(step))  # type: ignore[arg-type]
    assert not change.needs_accept
    assert change.record == BASE


@pytest.mark.parametrize("was_proposed", [True, False])
@pytest.mark.parametrize("step", [create(), cas(version(2))])
def test_the_refusal_of_a_later_attempt_is_proposed_and_recorded(step: object, was_proposed: bool) -> None:
    """R23: an earlier attempt may still be on its way, and would create after the client was told."""
    made = operation(step, attempt=1 if was_proposed else 2)  # type: ignore[arg-type]
    made.was_proposed = was_proposed
    change = run(made)
    assert change.needs_accept
    assert change.record.body == BASE.body, "a failed check keeps the version"
    assert window_of(change).find(b"s" * 8, 1) == Completed(windows.REFUSED, MS + 5000, NO_VERSION_PADDED)


def test_a_delete_of_nothing_changes_nothing_and_makes_no_tombstone() -> None:
    """Section 4a."""
    change = run(operation(delete()), base=NO_RECORD)
    assert change.results == [(APPLIED, NO_VERSION, b"", "", False, None, b"")]
    assert change.record == NO_RECORD
    assert not change.needs_accept


def test_a_later_attempts_delete_of_nothing_is_recorded_in_a_tombstone() -> None:
    """R23: the window of a key without a record needs one to live in."""
    change = run(operation(delete(), attempt=2), base=NO_RECORD)
    assert change.needs_accept
    assert change.record.is_tombstone
    assert window_of(change).find(b"s" * 8, 1) == Completed(windows.UNCHANGED, MS + 5000, NO_VERSION_PADDED)


def test_recording_advances_the_sessions_mark() -> None:
    base = remembered((1, 1, Completed(windows.APPLIED, MS + 5000, version(3))))
    assert window_of(run(operation(put(), sequence=2, mark=2), base=base)).is_answered(b"s" * 8, 1)


# -- retries


@pytest.mark.parametrize(
    ("known", "kind", "told"),
    [
        (windows.APPLIED, APPLIED, version(3)),
        (windows.UNCHANGED, APPLIED, NO_VERSION),
        (windows.REFUSED, CONFLICT, NO_VERSION),
    ],
)
@pytest.mark.parametrize("attempt", [1, 2])
def test_a_retry_is_answered_from_the_window_by_an_identity_round_and_never_run(
    known: int, kind: str, told: Version, attempt: int
) -> None:
    """R18, R23: also a first attempt that arrives after the second."""
    base = remembered((1, 1, Completed(known, MS + 5000, version(3))))
    change = run(operation(put(), attempt=attempt), base=base)
    assert change.results[0].kind == kind
    assert change.results[0].version == told
    assert change.record == base
    assert change.needs_accept


def test_a_retry_past_its_deadline_is_still_answered_from_the_window() -> None:
    """R24."""
    base = remembered((1, 1, Completed(windows.APPLIED, MS + 10, version(3))))
    change = run(operation(put(), attempt=2, deadline_ms=MS + 10), base=base, at_ms=MS + 30_000)
    assert change.results[0].kind == APPLIED


def test_an_operation_below_its_sessions_mark_is_never_run() -> None:
    """R23: it was answered."""
    base = remembered((5, 5, Completed(windows.APPLIED, MS + 5000, version(3))))
    change = run(operation(put(), sequence=4), base=base)
    assert change.results[0].kind == UNKNOWN
    assert change.results[0].code == "answered"
    assert change.record == base
    assert not change.needs_accept


def test_two_attempts_in_one_batch_have_one_effect() -> None:
    """R23."""
    change = run(operation(put(b"a")), operation(put(b"a"), attempt=2))
    assert [result.version for result in change.results] == [version(9), version(9)]
    assert change.record.version == version(9)


# -- deadlines (R24)


@pytest.mark.parametrize(("now_ms", "at_ms"), [(MS + 101, MS), (MS, MS + 101)])
def test_a_first_try_past_its_deadline_by_ballot_or_clock_is_refused_and_nothing_is_proposed(
    now_ms: int, at_ms: int
) -> None:
    """R24."""
    change = run(operation(put(), deadline_ms=MS + 100), now_ms=now_ms, at_ms=at_ms)
    assert change.results[0][0] == NOT_APPLIED
    assert change.results[0].code == "deadline-exceeded"
    assert change.results[0].is_settled
    assert not change.needs_accept
    assert change.record == BASE


def test_an_operation_runs_until_its_deadline() -> None:
    assert run(operation(put(), deadline_ms=MS + 100), now_ms=MS + 100, at_ms=MS + 100).results[0].kind == APPLIED


@pytest.mark.parametrize("was_proposed", [True, False])
def test_a_retry_past_its_deadline_is_refused_for_good_by_an_identity_round(was_proposed: bool) -> None:
    """R24: once that ballot is chosen, every round that could still run it is shut out."""
    made = operation(put(), attempt=1 if was_proposed else 2, deadline_ms=MS + 100)
    made.was_proposed = was_proposed
    change = run(made, at_ms=MS + 101)
    assert change.results[0] == (NOT_APPLIED, NO_VERSION, b"", "deadline-exceeded", True, None, b"")
    assert change.needs_accept
    assert change.record == BASE


@pytest.mark.parametrize("was_proposed", [True, False])
def test_a_retry_that_is_late_by_this_clock_alone_stays_in_doubt(was_proposed: bool) -> None:
    """R24: the ballot's time decides.  At a node whose clock is behind, a higher ballot with a time before the deadline
    may still run an earlier attempt, so "not applied" would be a lie; it was, until the one-key model found it."""
    made = operation(put(), attempt=1 if was_proposed else 2, deadline_ms=MS + 100)
    made.was_proposed = was_proposed
    change = run(made, now_ms=MS + 101, at_ms=MS + 100)
    assert change.results[0].kind == UNKNOWN
    assert change.results[0].code == "in doubt"
    later = run(operation(put(), deadline_ms=MS + 100), now_ms=MS, at_ms=MS + 100, base=change.record)
    assert later.results[0].kind == APPLIED


@pytest.mark.parametrize(
    ("ms", "kind"), [(MS + 100 + KEEP_AFTER_DEADLINE_MS - 1, NOT_APPLIED), (MS + 100 + KEEP_AFTER_DEADLINE_MS, UNKNOWN)]
)
def test_a_retry_is_too_late_to_tell_once_entries_of_its_time_may_be_gone(ms: int, kind: str) -> None:
    """R24."""
    assert run(operation(put(), attempt=2, deadline_ms=MS + 100), at_ms=ms).results[0].kind == kind


def test_an_entry_is_dropped_by_the_ballots_time_and_never_by_a_clock() -> None:
    """R24."""
    base = remembered((1, 1, Completed(windows.APPLIED, MS, version(3))))
    kept = run(operation(), base=base, now_ms=MS + 10**9)
    assert window_of(kept).size == 1
    dropped = run(operation(), base=base, now_ms=MS, at_ms=MS + KEEP_AFTER_DEADLINE_MS)
    assert window_of(dropped).size == 0


def test_a_read_has_no_deadline_in_a_round() -> None:
    assert run(operation(deadline_ms=0)).results[0].kind == VALUE


# -- the bound of the window (R24)


def full_base() -> Record:
    made = Window()
    for sequence in range(1, windows.ENTRIES_MAX + 1):
        made.record(b"a" * 8, 1, sequence, windows.APPLIED, MS + 10**6, version(3))
    return BASE._replace(window=made.encode())


def test_a_full_window_refuses_new_work_with_overloaded() -> None:
    """R24: NOT_APPLIED; a first try was in no accept, so evidence is enough."""
    change = run(operation(put()), base=full_base())
    assert change.results[0].kind == NOT_APPLIED
    assert change.results[0].code == "overloaded"
    assert not change.results[0].is_settled
    assert not change.needs_accept


@pytest.mark.parametrize("was_proposed", [True, False])
def test_overloaded_is_said_of_a_later_attempt_only_by_a_round_that_is_chosen(was_proposed: bool) -> None:
    """R17, R21: its earlier accept, held by one replica, would otherwise be adopted by a later round and applied."""
    made = operation(put(), attempt=1 if was_proposed else 2)
    made.was_proposed = was_proposed
    change = run(made, base=full_base())
    assert change.results[0].code == "overloaded"
    assert not change.results[0].is_settled
    assert change.needs_accept


def test_a_full_window_still_answers_reads_and_what_it_knows() -> None:
    change = run(operation(), operation(put(), session=b"a" * 8, sequence=7, attempt=2), base=full_base())
    assert [result.kind for result in change.results] == [VALUE, APPLIED]


def test_a_full_window_is_emptied_by_time_before_work_is_refused() -> None:
    base = full_base()
    late = MS + 10**6 + KEEP_AFTER_DEADLINE_MS
    assert run(operation(put(), deadline_ms=late), base=base, now_ms=late, at_ms=late).results[0].kind == APPLIED


# -- several steps: one change, all or nothing


def test_the_steps_of_a_transaction_make_one_change() -> None:
    """R57."""
    change = run(operation(put(b"a"), put(b"b"), put(b"c")))
    assert change.results[0].version == change.record.version == version(9)
    assert change.record.content == b"\x00c"
    assert window_of(change).size == 1


@pytest.mark.parametrize(
    "steps", [(put(b"a"), create()), (create(), put(b"a")), (put(b"a"), cas(version(2))), (delete(), cas(version(3)))]
)
def test_a_transaction_with_one_check_that_fails_does_nothing(steps: tuple[object, ...]) -> None:
    """R57: all of them hold, or none is done."""
    change = run(operation(*steps))  # type: ignore[arg-type]
    assert change.results[0].kind == CONFLICT
    assert change.results[0].body == BASE.body
    assert change.record == BASE


def test_an_etag_of_nobody_fails_also_behind_a_write_of_the_same_transaction() -> None:
    """What no ETag names (an unreadable one is empty) is not what stands where nothing stood."""
    change = run(operation(put(b"a"), cas(NO_VERSION)), base=NO_RECORD)
    assert change.results[0].kind == CONFLICT
    assert change.record == NO_RECORD


def test_a_later_step_sees_what_the_earlier_ones_did() -> None:
    change = run(operation(delete(version(3)), create(b"x")))
    assert change.results[0].kind == APPLIED
    assert change.record.content == b"\x00x"


def test_a_transaction_that_ends_absent_makes_a_tombstone_where_something_stood_between() -> None:
    change = run(operation(create(b"x"), delete()), base=NO_RECORD)
    assert change.record.is_tombstone
    assert change.results[0].version == version(9)


def test_the_function_gives_the_same_twice() -> None:
    """R16: pure; it may run several times."""
    work = [operation(put(b"a")), operation(create(), sequence=2, attempt=2), operation()]
    assert run(*work, entry=entry(3, 5)) == run(*work, entry=entry(3, 5))
    assert body(b"old", version(3)) == BASE.body
