"""R35, R36: what a replica makes of each step of a purge, and what is left of a key afterwards."""

from __future__ import annotations

import pytest
from unit.core.made import MS, ballot, entry, image, record

from kvclient.wire.values import NO_BALLOT, NO_VERSION
from kvnode.core.record import EMPTY_IMAGE, NO_ENTRY, Entry, Image
from kvnode.core.register import InvariantViolation, Register, Verdict, digest_of
from kvnode.core.version import ballot_greatest_at

GRACE_MS = 1000
HORIZON = ballot_greatest_at((MS + 500) << 16)
TOMBSTONE = image(committed=5, value=b"")
ANCHORED = TOMBSTONE._replace(anchored_ms=MS)
SETTLED = ANCHORED._replace(settled=True)


def register(state: Image, promised: int = 0, floor: int = 0) -> Register:
    made = Register(state, ballot(promised) if promised else NO_BALLOT, ballot(floor) if floor else NO_BALLOT)
    made.invariants()
    return made


def test_the_three_steps_leave_nothing_but_a_floor() -> None:
    made = register(TOMBSTONE, promised=9)
    assert made.anchor(ballot(5), MS) is Verdict.DONE
    assert made.settle(ballot(5), MS + GRACE_MS, GRACE_MS) is Verdict.DONE
    made.pins += 1
    made.on_durable(made.image)
    assert made.remove(ballot(5), HORIZON) is Verdict.DONE
    made.invariants()
    assert made.image == EMPTY_IMAGE
    assert made.floor == made.promise == ballot(9), "C11: the floor is not below the promise"


def test_repeated_steps_are_acknowledged_and_keep_their_time() -> None:
    made = register(ANCHORED)
    assert made.anchor(ballot(5), MS + 500) is Verdict.REPEAT
    assert made.image.anchored_ms == MS
    made = register(SETTLED)
    assert made.anchor(ballot(5), MS + 500) is Verdict.REPEAT
    assert made.settle(ballot(5), MS, GRACE_MS) is Verdict.REPEAT


@pytest.mark.parametrize("elapsed_ms", [-10_000, 0, GRACE_MS - 1])
def test_nothing_is_settled_too_soon(elapsed_ms: int) -> None:
    made = register(ANCHORED)
    assert made.settle(ballot(5), MS + elapsed_ms, GRACE_MS) is Verdict.SOON
    assert made.image == ANCHORED


def test_nothing_is_settled_that_was_not_anchored_nor_removed_that_was_not_settled() -> None:
    made = register(TOMBSTONE)
    assert made.settle(ballot(5), MS + 10 * GRACE_MS, GRACE_MS) is Verdict.SOON
    for state in (TOMBSTONE, ANCHORED):
        made = register(state)
        assert made.remove(ballot(5), HORIZON) is Verdict.OTHER
        assert made.image == state


OTHERS = [
    EMPTY_IMAGE,
    image(committed=4, value=b""),
    image(committed=6, value=b""),
    image(committed=5),
    image(6, 5, value=b""),
    image(5, value=b""),
    image(committed=5, value=b"", overlay=entry(5, 1)),
    image(committed=5, value=b"", overlay=entry(5, 1, b"")),
    image(committed=5, value=b"", overlay=entry(6, 1)),
    TOMBSTONE._replace(committed=record(5, b"", window=b"w")),
]


@pytest.mark.parametrize("state", OTHERS)
@pytest.mark.parametrize("settled", [False, True])
def test_whatever_is_not_that_tombstone_alone_is_left_as_it_is(state: Image, settled: bool) -> None:
    state = state._replace(settled=settled and bool(state.committed_ballot) and not state.accepted_ballot)
    made = Register(state, NO_BALLOT)
    for verdict in (
        made.anchor(ballot(5), MS),
        made.settle(ballot(5), MS + GRACE_MS, GRACE_MS),
        made.remove(ballot(5), HORIZON),
    ):
        assert verdict is Verdict.OTHER
    assert made.image == state


def test_an_entry_that_was_based_on_no_such_key_counts_over_a_settled_tombstone() -> None:
    made = register(SETTLED)
    assert made.store(entry(0, 1)) is Verdict.DONE
    assert made.remove(ballot(5), HORIZON) is Verdict.OTHER
    assert made.image.overlay == entry(0, 1)


@pytest.mark.parametrize(("floor", "verdict"), [(4, Verdict.OTHER), (5, Verdict.GONE), (6, Verdict.GONE)])
def test_what_was_removed_before_is_gone(floor: int, verdict: Verdict) -> None:
    made = register(EMPTY_IMAGE, floor=floor)
    assert made.anchor(ballot(5), MS) is verdict
    assert made.settle(ballot(5), MS, 0) is verdict
    assert made.remove(ballot(5), HORIZON) is verdict


def test_a_promise_from_a_clock_far_ahead_makes_no_floor() -> None:
    made = register(SETTLED)
    made.promised = ballot(9, ms=MS + 60_000)
    assert made.remove(ballot(5), HORIZON) is Verdict.SOON
    assert (made.image, made.floor) == (SETTLED, NO_BALLOT)


def test_a_floor_never_falls() -> None:
    made = register(SETTLED, floor=20)
    made.remove(ballot(5), HORIZON)
    assert made.floor == ballot(20)


@pytest.mark.parametrize("change", ["accept", "commit", "store"])
def test_any_change_ends_what_was_anchored(change: str) -> None:
    """A purge of the old ballot must not go on over what came since."""
    made = register(ANCHORED)
    if change == "accept":
        made.accept(ballot(6), record(6), NO_VERSION, ballot(7))
    elif change == "commit":
        made.commit(ballot(6), record(6, b""))
    else:
        made.store(entry(5, 1))
    assert made.image.anchored_ms == 0
    assert not made.image.settled


def test_a_promise_does_not() -> None:
    made = register(ANCHORED)
    assert made.prepare(ballot(6), MS, 500) is Verdict.DONE
    made.image = made.image._replace(promised=ballot(6))
    assert made.settle(ballot(5), MS + GRACE_MS, GRACE_MS) is Verdict.DONE


def test_an_entry_that_does_not_count_goes_with_the_settling() -> None:
    hidden = Register(ANCHORED._replace(overlay=Entry(entry(4, 1))), NO_BALLOT)
    assert hidden.settle(ballot(5), MS + GRACE_MS, GRACE_MS) is Verdict.DONE
    assert hidden.image.overlay == NO_ENTRY


# -- what is shown meanwhile (R6, R38)


def test_until_the_removal_is_durable_the_settled_tombstone_is_shown() -> None:
    made = register(SETTLED)
    made.remove(ballot(5), HORIZON)
    made.pins += 1
    assert made.shown == SETTLED
    made.invariants()
    made.on_removed()
    assert made.shown == EMPTY_IMAGE


def test_a_new_life_that_begins_before_the_removal_is_durable_shows_no_old_commit() -> None:
    made = register(SETTLED)
    made.remove(ballot(5), HORIZON)
    made.pins += 1
    assert made.accept(ballot(8), record(8), NO_VERSION, ballot(9)) is Verdict.DONE
    accepted = made.image
    made.pins += 1
    made.invariants()
    made.on_removed()
    assert made.shown == SETTLED
    assert made.accept(ballot(10), record(10), NO_VERSION, ballot(11)) is Verdict.DONE
    made.pins += 1
    made.on_durable(accepted)
    assert made.shown == accepted, "nothing unsettled of the old life"
    made.on_durable(made.image)
    assert made.shown == made.image
    made.invariants()


def test_a_commit_after_the_removal_is_shown_at_once() -> None:
    made = register(SETTLED)
    made.remove(ballot(5), HORIZON)
    made.pins += 1
    assert made.commit(ballot(8), record(8)) is Verdict.DONE
    assert made.shown.committed_ballot == ballot(8)
    made.on_removed()
    assert made.shown == made.image
    made.invariants()


def test_the_digest_of_a_removed_key_carries_its_floor() -> None:
    """R37"""
    made = register(SETTLED)
    made.digest = digest_of(made.shown, made.floor)
    made.remove(ballot(5), HORIZON)
    made.pins += 1
    made.on_removed()
    assert made.digest == b""
    assert ballot(5) in digest_of(made.shown, made.floor)


@pytest.mark.parametrize("number", [4, 5])
def test_a_purged_key_refuses_whatever_lies_at_or_below_its_floor(number: int) -> None:
    """R36"""
    made = Register(EMPTY_IMAGE, NO_BALLOT, ballot(5))
    assert made.prepare(ballot(number), MS, 500) is Verdict.NACK
    assert made.accept(ballot(number), record(number), NO_VERSION, ballot(number + 1)) is Verdict.NACK
    assert made.commit(ballot(number), record(number)) is Verdict.FLOOR
    assert made.image == EMPTY_IMAGE


# -- a promise and nothing else (R6)


def test_a_promise_alone_becomes_a_floor() -> None:
    made = register(EMPTY_IMAGE._replace(promised=ballot(7)))
    assert made.forget_promise(HORIZON) is Verdict.DONE
    assert (made.image, made.floor, made.promise) == (EMPTY_IMAGE, ballot(7), ballot(7))


@pytest.mark.parametrize("state", [image(5), image(committed=5), EMPTY_IMAGE._replace(overlay=entry(0, 1))])
def test_a_key_that_holds_more_keeps_its_row(state: Image) -> None:
    made = register(state)
    assert made.forget_promise(HORIZON) is Verdict.OTHER
    assert made.image == state


def test_a_row_on_its_way_is_waited_for() -> None:
    made = register(EMPTY_IMAGE._replace(promised=ballot(7)))
    made.pins = 1
    assert made.forget_promise(HORIZON) is Verdict.OTHER


def test_a_commit_that_is_shown_and_not_there_is_still_an_invariant_broken() -> None:
    made = register(TOMBSTONE)
    made.image = EMPTY_IMAGE
    with pytest.raises(InvariantViolation):
        made.invariants()
