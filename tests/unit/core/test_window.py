"""R23, R24: what is remembered of answered operations, for how long, and within which bound."""

from __future__ import annotations

import pytest
from unit.core.made import version

from kvclient.wire.values import VERSION_BYTES
from kvnode.core.window import (
    APPLIED,
    ENTRIES_MAX,
    KEEP_AFTER_DEADLINE_MS,
    NO_VERSION_PADDED,
    REFUSED,
    UNCHANGED,
    Completed,
    Window,
)

A, B = b"session-", b"another-"


def done(deadline_ms: int = 1000, result: int = APPLIED, number: int = 1) -> Completed:
    return Completed(result, deadline_ms, version(number))


def window(*entries: tuple[bytes, int, int, Completed]) -> Window:
    made = Window()
    for session, mark, sequence, completed in entries:
        made.record(session, mark, sequence, *completed)
    made.invariants()
    return made


def test_what_was_recorded_is_found_and_nothing_else() -> None:
    """R23."""
    made = window((A, 3, 5, done()))
    assert made.find(A, 5) == done()
    assert made.find(A, 4) is None
    assert made.find(B, 5) is None


def test_a_result_without_a_version_is_kept_with_a_padded_one() -> None:
    made = Window()
    made.record(A, 1, 1, REFUSED, 9)
    assert made.find(A, 1) == Completed(REFUSED, 9, NO_VERSION_PADDED)
    assert len(NO_VERSION_PADDED) == VERSION_BYTES


def test_an_operation_below_its_sessions_mark_was_answered_and_one_at_it_was_not() -> None:
    """R23."""
    made = window((A, 3, 5, done()))
    assert made.is_answered(A, 2)
    assert not made.is_answered(A, 3)
    assert not made.is_answered(B, 2)


def test_recording_forgets_the_operations_below_the_mark_and_no_others() -> None:
    """R23: RIFL's scheme."""
    made = window((A, 1, 1, done()), (A, 1, 2, done()), (B, 1, 1, done()), (A, 2, 3, done()))
    assert made.find(A, 1) is None
    assert made.find(A, 2) == made.find(A, 3) == made.find(B, 1) == done()
    assert made.size == 3


def test_a_mark_never_falls() -> None:
    """R23: an attempt delayed from before the mark advanced carries an old one."""
    made = window((A, 4, 6, done()), (A, 1, 5, done()))
    assert made.is_answered(A, 3)
    assert made.find(A, 5) is not None


def test_an_entry_inherits_the_latest_deadline_of_those_it_replaces() -> None:
    """R24: else a delayed attempt of one of them outlives the mark that refuses it."""
    made = window((A, 1, 1, done(9000)), (A, 1, 2, done(500)), (A, 3, 3, done(700)))
    assert made.find(A, 3) == done(9000)
    made.expire(700 + KEEP_AFTER_DEADLINE_MS)
    assert made.is_answered(A, 1)


def test_an_earlier_deadline_is_not_inherited() -> None:
    assert window((A, 1, 1, done(500)), (A, 2, 2, done(700))).find(A, 2) == done(700)


def test_recording_one_operation_again_does_not_count_it_twice() -> None:
    made = window((A, 1, 1, done()), (A, 1, 1, done(result=UNCHANGED)))
    assert made.size == 1


@pytest.mark.parametrize(("ballot_ms", "stays"), [(0, True), (60_999, True), (61_000, False), (10**9, False)])
def test_an_entry_is_dropped_only_by_a_ballot_60_s_past_its_deadline(ballot_ms: int, stays: bool) -> None:
    """R24."""
    made = window((A, 1, 1, done(1000)))
    made.expire(ballot_ms)
    made.invariants()
    assert (made.find(A, 1) is not None) is stays
    assert made.size == stays


def test_a_mark_goes_with_the_last_entry_that_carries_it_and_not_before() -> None:
    """R24."""
    made = window((A, 5, 5, done(1000)), (A, 5, 6, done(2000)))
    made.expire(1000 + KEEP_AFTER_DEADLINE_MS)
    assert made.find(A, 5) is None
    assert made.is_answered(A, 4)
    made.expire(2000 + KEEP_AFTER_DEADLINE_MS)
    assert not made.is_answered(A, 4)
    assert made.encode() == b""


def full() -> Window:
    return window(*((A, 1, sequence, done()) for sequence in range(1, ENTRIES_MAX + 1)))


def test_a_window_holds_1024_entries_and_no_more() -> None:
    """R24."""
    made = full()
    assert made.size == ENTRIES_MAX
    assert not made.has_room(A, 1)
    assert not made.has_room(B, 50)
    made.size -= 1
    assert made.has_room(B, 1)


def test_a_full_window_has_room_for_a_session_whose_mark_advances() -> None:
    """R24: what it drops makes the room."""
    made = full()
    assert made.has_room(A, 2)
    made.record(A, 2, ENTRIES_MAX + 1, *done())
    made.invariants()
    assert made.size == ENTRIES_MAX


def test_a_window_comes_back_from_its_encoding_whole() -> None:
    made = window((A, 2, 3, done()), (A, 2, 4, done(7, REFUSED)), (B, 1, 1, done(8, UNCHANGED, 9)))
    again = Window.decode(made.encode())
    again.invariants()
    assert again.encode() == made.encode()
    assert again.find(A, 4) == done(7, REFUSED)
    assert again.is_answered(A, 1)
    assert again.size == 3


@pytest.mark.parametrize("cut", [1, 8, 76])
def test_half_an_entry_is_refused(cut: int) -> None:
    encoded = window((A, 2, 3, done())).encode()
    with pytest.raises(ValueError, match="not a multiple"):
        Window.decode(encoded[:cut])
    with pytest.raises(ValueError, match="not a multiple"):
        Window.decode(encoded + bytes(cut))
