"""R6-R13, R29, R30: what a replica makes of each message, and what it shows of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from unit.core.made import MS, ballot, entry, eventual, image, record, stamp, version

from kvclient.wire.values import NO_BALLOT, NO_VERSION
from kvnode.core.record import EMPTY_IMAGE, NO_ENTRY, NO_RECORD, Image, entry_version
from kvnode.core.register import (
    InvariantViolation,
    Register,
    Verdict,
    digest_of,
    digest_parse,
    digests_agree,
    visible_body,
)
from kvnode.core.version import ballot_make

OFFSET_MS = 500


def register(state: Image = EMPTY_IMAGE, promised: int = 0, floor: int = 0) -> Register:
    made = Register(state, ballot(promised) if promised else NO_BALLOT, ballot(floor) if floor else NO_BALLOT)
    made.invariants()
    return made


def prepare(made: Register, number: int) -> Verdict:
    verdict = made.prepare(ballot(number), MS, OFFSET_MS)
    made.invariants()
    return verdict


def accept(made: Register, number: int, value: bytes = b"v", base: bytes = NO_VERSION, following: int = 0) -> Verdict:
    verdict = made.accept(ballot(number), record(number, value), base, ballot(following or number + 1))  # type: ignore[arg-type]
    made.invariants()
    return verdict


def commit(made: Register, number: int, *, with_record: bool = False) -> Verdict:
    verdict = made.commit(ballot(number), record(number) if with_record else NO_RECORD)
    made.invariants()
    return verdict


def put(made: Register) -> Image:
    """What a replica does to write a row; call `made.on_durable` with it later."""
    made.pins += 1
    return made.image


# -- prepare (R9)


def test_a_prepare_above_the_promise_is_promised() -> None:
    made = register(promised=3)
    assert prepare(made, 4) is Verdict.DONE
    assert made.promise == ballot(4)
    assert made.image == EMPTY_IMAGE, "a promise below the ceiling needs no row (R11)"


@pytest.mark.parametrize("number", [3, 2])
def test_a_prepare_at_or_below_the_promise_is_refused(number: int) -> None:
    """R9: strictly above; two rounds may not share a promise (M5)."""
    made = register(promised=3)
    assert prepare(made, number) is Verdict.NACK
    assert made.promise == ballot(3)


@pytest.mark.parametrize(
    "state", [image(accepted=5), image(committed=5), image(5, 4), image(accepted=0, committed=5, overlay=entry(5, 1))]
)
def test_a_prepare_at_or_below_what_is_accepted_or_committed_is_refused(state: Image) -> None:
    """R6: the effective promise."""
    made = register(state)
    assert made.promise == ballot(5)
    assert prepare(made, 5) is Verdict.NACK
    assert prepare(made, 4) is Verdict.NACK
    assert prepare(made, 6) is Verdict.DONE


def test_the_floor_of_an_absent_key_refuses_prepares_at_or_below_it() -> None:
    """R36, C11."""
    made = register(floor=5)
    assert prepare(made, 5) is Verdict.NACK
    assert prepare(made, 4) is Verdict.NACK
    assert prepare(made, 6) is Verdict.DONE


def test_the_floor_says_nothing_of_a_key_that_is_there() -> None:
    """R36: only absent keys."""
    made = register(image(committed=2), floor=5)
    assert prepare(made, 3) is Verdict.DONE


def test_promises_rise_and_are_never_overwritten_by_the_overlay() -> None:
    """R29: E never touches a promise."""
    made = register(promised=7)
    made.store(entry(0, 1))
    assert made.promise == ballot(7)


def test_a_prepare_from_a_clock_too_far_ahead_is_refused_and_changes_nothing() -> None:
    """R5: poison stays bounded."""
    made = register(promised=3)
    assert made.prepare(ballot_make((MS + OFFSET_MS + 1) << 16, 1, 1, 1), MS, OFFSET_MS) is Verdict.SKEW
    assert made.promise == ballot(3)
    assert made.prepare(ballot_make((MS + OFFSET_MS) << 16, 1, 1, 1), MS, OFFSET_MS) is Verdict.DONE


def test_a_prepare_one_counter_step_above_what_is_held_is_taken_from_any_clock() -> None:
    """R5: else a poisoned key could never be written again by a good clock."""
    far = (MS + 10**6) << 16
    made = Register(EMPTY_IMAGE, ballot_make(far, 1, 1, 1))
    assert made.prepare(ballot_make(far + 2, 1, 1, 2), MS, OFFSET_MS) is Verdict.SKEW
    assert made.prepare(ballot_make(far + 1, 1, 1, 2), MS, OFFSET_MS) is Verdict.DONE
    assert made.prepare(ballot_make(far + 1, 1, 1, 3), MS, OFFSET_MS) is Verdict.DONE


def test_a_stale_prepare_from_a_clock_ahead_is_a_nack_and_not_a_skew() -> None:
    far = (MS + 10**6) << 16
    made = Register(EMPTY_IMAGE, ballot_make(far, 2, 1, 1))
    assert made.prepare(ballot_make(far, 1, 1, 1), MS, OFFSET_MS) is Verdict.NACK


@pytest.mark.parametrize("far_ms", [10**6])
def test_accepts_and_commits_are_never_refused_for_their_clock(far_ms: int) -> None:
    """R5."""
    made = register()
    far = ballot(9, ms=MS + far_ms)
    assert made.accept(far, record(9), NO_VERSION, ballot(10, ms=MS + far_ms)) is Verdict.DONE
    assert made.commit(far, NO_RECORD) is Verdict.DONE


# -- accept (R10)


def test_an_accept_at_the_promise_is_accepted_and_promises_the_next_ballot() -> None:
    """R10, R19."""
    made = register(promised=3)
    assert accept(made, 3, following=8) is Verdict.DONE
    assert made.image == Image(ballot(8), ballot(3), record(3), NO_BALLOT, NO_RECORD, NO_ENTRY, False)
    assert made.promise == ballot(8)
    assert prepare(made, 8) is Verdict.NACK
    assert accept(made, 7) is Verdict.NACK
    assert accept(made, 8) is Verdict.DONE


def test_an_accept_needs_no_prepare_here() -> None:
    """R10: other replicas promised."""
    assert accept(register(promised=2), 5) is Verdict.DONE


@pytest.mark.parametrize("state", [register(promised=4), register(image(accepted=4)), register(image(committed=4))])
def test_an_accept_below_the_promise_is_refused(state: Register) -> None:
    before = state.image
    assert accept(state, 3) is Verdict.NACK
    assert state.image == before


def test_an_accept_at_the_committed_ballot_with_another_record_is_a_broken_invariant() -> None:
    made = register(image(committed=4))
    with pytest.raises(InvariantViolation, match="two records"):
        made.accept(ballot(4), record(4, b"other"), NO_VERSION, ballot(5))


def test_an_accept_at_the_accepted_ballot_with_another_record_is_a_broken_invariant() -> None:
    """R10, R18: stop the process."""
    made = register(image(accepted=4))
    with pytest.raises(InvariantViolation, match="two records"):
        made.accept(ballot(4), record(4, window=b"another window"), NO_VERSION, ballot(5))
    assert not issubclass(InvariantViolation, ValueError), "nothing may catch it as bad input"


@pytest.mark.parametrize("state", [image(accepted=4), image(committed=4), image(6, 4)])
def test_a_repeated_accept_is_acknowledged_and_changes_nothing(state: Image) -> None:
    """R10: even below a greater promise, for it was done before."""
    made = register(state, promised=9)
    assert accept(made, 4) is Verdict.REPEAT
    assert made.image == state
    assert made.promise == ballot(9)


def test_the_floor_of_an_absent_key_refuses_an_accept_at_it_strictly() -> None:
    """R10, R36: a zombie of the old life."""
    made = register(floor=5)
    assert accept(made, 5) is Verdict.NACK
    assert accept(made, 4) is Verdict.NACK
    assert made.image == EMPTY_IMAGE
    assert accept(made, 6) is Verdict.DONE


def test_a_key_that_is_there_accepts_below_the_floor_of_its_range() -> None:
    assert accept(register(image(committed=2), floor=5), 3) is Verdict.DONE


def test_an_accept_keeps_what_is_committed_and_the_overlay() -> None:
    """R30: E is not dropped when S is merely accepted."""
    made = register(image(committed=3, overlay=entry(3, 1)))
    assert accept(made, 5) is Verdict.DONE
    assert made.image.committed_ballot == ballot(3)
    assert made.image.overlay == entry(3, 1)


def test_an_accept_replaces_an_older_accepted_record() -> None:
    made = register(image(accepted=3))
    assert accept(made, 5) is Verdict.DONE
    assert made.image.accepted == record(5)


def test_an_accept_ends_the_settlement_of_a_tombstone() -> None:
    """R35: the key is on its way to live again."""
    made = register(image(committed=3, value=b"", settled=True))
    assert accept(made, 5) is Verdict.DONE
    assert not made.image.settled


# -- unseen (R10, R19)


def test_an_accept_without_a_prepare_is_refused_over_an_entry_later_than_its_base() -> None:
    """R10: else a steady strong writer passes over eventual writes that all N hold."""
    made = register(image(committed=3, overlay=entry(3, 1)))
    before, promise = made.image, made.promise
    assert accept(made, 5, base=version(3)) is Verdict.UNSEEN
    assert made.image == before
    assert made.promise == promise


def test_an_accept_without_a_prepare_is_refused_over_an_entry_of_a_change_it_missed() -> None:
    made = register(image(committed=3, overlay=entry(4, 1)))
    assert accept(made, 5, base=version(3)) is Verdict.UNSEEN


@pytest.mark.parametrize("base", [eventual(3, 1), eventual(3, 2), version(4)])
def test_an_accept_without_a_prepare_passes_over_entries_that_it_folded_or_that_are_older(base: bytes) -> None:
    made = register(image(committed=3, overlay=entry(3, 1)))
    assert accept(made, 5, base=base) is Verdict.DONE


def test_an_accept_after_a_prepare_passes_over_an_entry_that_came_later() -> None:
    """R10: superseded; the promises showed what there was."""
    assert accept(register(image(committed=3, overlay=entry(3, 1))), 5) is Verdict.DONE


def test_a_promise_stands_before_an_unseen_entry() -> None:
    made = register(image(committed=3, overlay=entry(3, 1)), promised=9)
    assert accept(made, 5, base=version(3)) is Verdict.NACK


# -- commit (R12)


def test_a_commit_of_the_accepted_ballot_needs_no_record() -> None:
    made = register(image(accepted=4))
    assert commit(made, 4) is Verdict.DONE
    assert made.image.committed == record(4)
    assert made.image.committed_ballot == ballot(4)
    assert not made.image.accepted_ballot, "mark and drop are one step"


def test_a_commit_without_record_of_an_unknown_ballot_changes_nothing() -> None:
    """R12: losing the mark but keeping the drop loses an acknowledged write."""
    made = register(image(accepted=4, committed=2))
    before = made.image
    assert commit(made, 5) is Verdict.UNKNOWN
    assert made.image == made.shown == before


def test_a_commit_with_its_record_is_taken_by_a_replica_that_never_accepted_it() -> None:
    made = register()
    assert commit(made, 5, with_record=True) is Verdict.DONE
    assert made.image.committed == record(5)


def test_a_commit_drops_accepted_at_or_below_it_and_keeps_what_is_above() -> None:
    """R12, R15: below is dead, above is undecided."""
    below, above = register(image(accepted=4)), register(image(accepted=6))
    commit(below, 5, with_record=True)
    commit(above, 5, with_record=True)
    assert not below.image.accepted_ballot
    assert below.image.accepted == NO_RECORD
    assert above.image.accepted_ballot == ballot(6)
    assert above.image.accepted == record(6)


@pytest.mark.parametrize("number", [5, 4, 1])
def test_a_commit_at_or_below_the_committed_ballot_changes_nothing(number: int) -> None:
    made = register(image(committed=5))
    before = made.image
    assert commit(made, number, with_record=True) is Verdict.REPEAT
    assert made.image == before


def test_a_commit_neither_checks_nor_lowers_the_promise() -> None:
    """R12."""
    made = register(promised=9)
    assert commit(made, 5, with_record=True) is Verdict.DONE
    assert made.promise == ballot(9)


def test_a_commit_above_the_promise_is_the_new_least_ballot() -> None:
    """R6."""
    made = register(promised=3)
    commit(made, 5, with_record=True)
    assert made.promise == ballot(5)
    assert accept(made, 4) is Verdict.NACK


@pytest.mark.parametrize("number", [5, 4])
def test_a_commit_at_or_below_the_floor_does_not_bring_an_absent_key_back(number: int) -> None:
    """R12, R36."""
    made = register(floor=5)
    assert commit(made, number, with_record=True) is Verdict.FLOOR
    assert made.image == EMPTY_IMAGE


def test_a_commit_above_the_floor_or_of_a_key_that_is_there_is_taken() -> None:
    assert commit(register(floor=5), 6, with_record=True) is Verdict.DONE
    assert commit(register(image(accepted=4), floor=5), 4) is Verdict.DONE


def test_a_commit_that_carries_another_record_than_was_accepted_is_a_broken_invariant() -> None:
    made = register(image(accepted=4))
    with pytest.raises(InvariantViolation, match="another record"):
        made.commit(ballot(4), record(4, b"other"))


def test_a_commit_with_the_record_that_was_accepted_is_taken() -> None:
    assert commit(register(image(accepted=4)), 4, with_record=True) is Verdict.DONE


def test_a_commit_ends_the_settlement_of_a_tombstone() -> None:
    made = register(image(committed=3, value=b"", settled=True))
    commit(made, 5, with_record=True)
    assert not made.image.settled


# -- the overlay (R8, R29, R30)


def test_an_entry_is_stored_and_replaces_an_older_one() -> None:
    """R29."""
    made = register()
    assert made.store(entry(0, 1)) is Verdict.DONE
    assert made.store(entry(0, 2)) is Verdict.DONE
    assert made.image.overlay == entry(0, 2)
    made.invariants()


def test_the_same_entry_again_is_a_repeat() -> None:
    """R25: same V = same write."""
    made = register(image(overlay=entry(0, 1)))
    assert made.store(entry(0, 1)) is Verdict.REPEAT


@pytest.mark.parametrize(
    ("state", "late"),
    [
        (image(overlay=entry(0, 2)), entry(0, 1)),
        (image(committed=3, overlay=entry(3, 1)), entry(2, 9)),
        (image(committed=3), entry(2, 9)),
        (image(committed=3), entry(0, 9)),
        (image(committed=3, overlay=entry(4, 1)), entry(3, 9)),
    ],
)
def test_an_entry_that_is_older_or_had_not_seen_the_record_is_superseded_and_not_stored(
    state: Image, late: object
) -> None:
    """R29, C4: on any clock."""
    made = register(state)
    assert made.store(late) is Verdict.SUPERSEDED  # type: ignore[arg-type]
    assert made.image == state


def test_an_entry_of_a_change_that_is_not_known_here_is_stored() -> None:
    """R8: its sballot is a chosen change's (R7)."""
    made = register(image(committed=3))
    assert made.store(entry(4, 1)) is Verdict.DONE
    assert visible_body(made.image) == entry(4, 1)[1:]


def test_an_entry_is_stored_beside_an_undecided_proposal_and_a_greater_promise() -> None:
    """R29: never rejected because of promises."""
    made = register(image(accepted=5, committed=3), promised=99)
    assert made.store(entry(3, 1)) is Verdict.DONE
    assert made.image.accepted_ballot == ballot(5)


@pytest.mark.parametrize(
    ("held", "stays"), [(entry(3, 9), False), (entry(0, 9), False), (entry(5, 1), True), (entry(6, 1), True)]
)
def test_a_commit_drops_the_entries_that_it_hides_and_no_others(held: object, stays: bool) -> None:
    """R30."""
    made = register(image(committed=3))
    made.image = made.shown = made.image._replace(overlay=held)  # type: ignore[arg-type]
    made.commit(ballot(5), record(5))
    made.invariants()
    assert bool(made.image.overlay) is stays
    assert made.image.overlay == made.shown.overlay


def test_a_settled_tombstone_takes_an_entry_flagged_absent() -> None:
    """R8."""
    made = register(image(committed=3, value=b"", settled=True))
    assert made.store(entry(2, 1)) is Verdict.SUPERSEDED
    assert made.store(entry(0, 1)) is Verdict.DONE
    assert visible_body(made.image) == entry(0, 1)[1:]


def test_a_replica_shows_its_overlay_else_what_is_committed_and_never_a_proposal() -> None:
    """R8: no dirty reads."""
    assert visible_body(EMPTY_IMAGE) == b""
    assert visible_body(image(accepted=5)) == b""
    assert visible_body(image(accepted=5, committed=3)) == record(3).body
    assert visible_body(image(committed=3, overlay=entry(3, 1))) == entry(3, 1)[1:]
    assert visible_body(image(committed=3, overlay=entry(2, 9))) == record(3).body


# -- what is shown (R6)


def test_nothing_is_shown_before_its_row_is_durable() -> None:
    """R6."""
    made = register()
    accept(made, 3)
    row = put(made)
    made.store(entry(0, 1))
    assert made.shown == EMPTY_IMAGE
    made.on_durable(row)
    assert made.shown.accepted_ballot == ballot(3)
    made.invariants()


def test_with_rows_left_on_their_way_only_the_durable_one_is_shown() -> None:
    made = register()
    accept(made, 3)
    first = put(made)
    accept(made, 5)
    second = put(made)
    made.on_durable(first)
    assert made.shown.accepted_ballot == ballot(3)
    made.on_durable(second)
    assert made.shown.accepted_ballot == ballot(5)
    assert made.pins == 0


def test_a_commit_is_shown_at_once_for_it_is_chosen_whatever_this_replica_forgets() -> None:
    """R6, R12."""
    made = register()
    accept(made, 3)
    row = put(made)
    commit(made, 3)
    assert made.shown.committed == record(3)
    assert not made.shown.accepted_ballot
    made.on_durable(row)
    assert made.shown == made.image
    assert made.shown.committed_ballot == ballot(3)


def test_a_commit_does_not_show_an_accept_that_is_not_durable() -> None:
    """R6: the proposal above the commit is seen by nobody yet."""
    made = register(image(accepted=3))
    accept(made, 5)
    row = put(made)
    commit(made, 3, with_record=True)
    assert made.shown.committed_ballot == ballot(3)
    assert not made.shown.accepted_ballot
    assert made.image.accepted_ballot == ballot(5)
    made.on_durable(row)
    assert made.shown.accepted_ballot == ballot(5)


def test_a_row_from_before_a_commit_does_not_take_the_commit_back() -> None:
    """R6: rows become durable in order, commits come in between."""
    made = register()
    accept(made, 3)
    first = put(made)
    made.store(entry(0, 1))
    second = put(made)
    commit(made, 3)
    made.on_durable(first)
    assert made.shown.committed_ballot == ballot(3)
    assert not made.shown.accepted_ballot
    assert not made.shown.overlay
    made.on_durable(second)
    assert made.shown == made.image
    assert not made.image.overlay, "the entry had not seen the record (R30)"


def test_a_row_with_an_accept_above_a_later_commit_keeps_it() -> None:
    made = register()
    accept(made, 5)
    first = put(made)
    accept(made, 7)
    second = put(made)
    commit(made, 3, with_record=True)
    made.on_durable(first)
    assert made.shown.accepted_ballot == ballot(5)
    assert made.shown.committed_ballot == ballot(3)
    made.on_durable(second)
    assert made.shown == made.image


def test_what_is_shown_empties_the_cached_digest() -> None:
    made = register()
    accept(made, 3)
    row = put(made)
    made.digest = b"cached"
    made.on_durable(row)
    assert made.digest == b""
    made.digest = b"cached"
    commit(made, 3)
    assert made.digest == b""


def test_a_loaded_row_is_shown_and_its_promise_stands() -> None:
    made = register(image(accepted=3)._replace(promised=ballot(8)))
    assert made.shown == made.image
    assert made.promise == ballot(8)
    assert register(image(committed=2), promised=9).promise == ballot(9)


# -- invariants


@pytest.mark.parametrize(
    "broken",
    [
        image(accepted=3, committed=3),
        image(accepted=2, committed=3),
        image(accepted=3)._replace(accepted=NO_RECORD),
        image(committed=3)._replace(committed=NO_RECORD),
        image(committed=3)._replace(committed_ballot=NO_BALLOT),
        image(committed=3, overlay=entry(2, 1)),
    ],
)
def test_a_state_that_no_sequence_of_rules_allows_is_a_broken_invariant(broken: Image) -> None:
    with pytest.raises(InvariantViolation):
        Register(broken, NO_BALLOT).invariants()


def test_a_promise_below_its_row_and_a_commit_shown_but_not_held_are_broken_invariants() -> None:
    made = register(image(accepted=3))
    made.promised = ballot(2)
    with pytest.raises(InvariantViolation, match="promise fell"):
        made.invariants()
    made = register()
    made.shown = image(committed=3)
    with pytest.raises(InvariantViolation, match="a commit is shown"):
        made.invariants()


# -- digests (R20)

STATES = [
    EMPTY_IMAGE,
    image(accepted=3),
    image(committed=3),
    image(5, 3),
    image(committed=3, overlay=entry(3, 1)),
    image(5, 3, overlay=entry(3, 1)),
    image(overlay=entry(0, 1)),
    image(committed=3, value=b"", settled=True),
    image(committed=3, value=b"", settled=True, overlay=entry(0, 1)),
]


@pytest.mark.parametrize("state", STATES)
def test_a_digest_carries_all_that_a_fast_read_tests(state: Image) -> None:
    """R20, section 4a."""
    digest = digest_parse(digest_of(state, ballot(2)))
    assert digest.accepted_ballot == state.accepted_ballot
    assert digest.accepted_version == state.accepted.version
    assert digest.committed_ballot == state.committed_ballot
    assert digest.committed_version == state.committed.version
    assert digest.overlay_version == entry_version(state.overlay)
    assert digest.overlay_is_absent_based == bool(state.overlay and state.overlay[0])
    assert digest.is_settled == state.settled
    is_absent = not (state.accepted_ballot or state.committed_ballot)
    assert digest.floor == (ballot(2) if is_absent else NO_BALLOT), "a floor speaks of absent keys only (R36)"
    assert digest.greatest == max(state.accepted_ballot, state.committed_ballot)


def test_digests_of_different_states_differ() -> None:
    encoded = sorted(digest_of(state, NO_BALLOT) for state in STATES)
    assert all(low != high for low, high in pairwise(encoded))
    assert digest_of(EMPTY_IMAGE, NO_BALLOT) == b"\x00"


@pytest.mark.parametrize("state", STATES)
def test_a_cut_or_stretched_digest_is_refused(state: Image) -> None:
    encoded = digest_of(state, ballot(2))
    for cut in range(len(encoded)):
        with pytest.raises(ValueError, match="digest"):
            digest_parse(encoded[:cut])
    with pytest.raises(ValueError, match="digest"):
        digest_parse(encoded + b"\x00")


@pytest.mark.parametrize("flags", [64, 128, 255])
def test_a_digest_with_unknown_flags_is_refused(flags: int) -> None:
    with pytest.raises(ValueError, match="flags"):
        digest_parse(bytes([flags]) + bytes(2 * 72 + 44 + 28 if flags == 255 else 0))


@pytest.mark.parametrize("other", STATES)
def test_digests_agree_only_with_a_committed_home_and_the_same_greatest_ballot(other: Image) -> None:
    """R20."""
    home = digest_of(image(committed=3), NO_BALLOT)
    agrees = other in (image(accepted=3), image(committed=3))
    assert digests_agree(home, digest_of(other, NO_BALLOT)) is agrees
    assert not digests_agree(digest_of(other, NO_BALLOT), digest_of(image(committed=4), NO_BALLOT))
    assert stamp(1) > 0
