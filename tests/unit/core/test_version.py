"""R5, R7, R8, R15: how ballots and versions are made, and how an entry stands to a record."""

from __future__ import annotations

import pytest
from unit.core.made import ballot, entry, eventual, stamp, version

from kvclient.wire.values import BALLOT_BYTES, NO_BALLOT, NO_SBALLOT, NO_VERSION, VERSION_BYTES
from kvnode.core.version import (
    BallotIssuer,
    ballot_greatest_at,
    ballot_make,
    ballot_ms,
    ballot_stamp,
    ballot_text,
    entry_counts,
    entry_proves_stale,
    entry_visible,
    version_eventual,
    version_fold,
    version_sballot,
    version_stamp,
    version_strong,
    version_text,
)


def test_time_decides_before_node_incarnation_and_number() -> None:
    """R5."""
    assert ballot_make(2, 1, 1, 1) > ballot_make(1, 9, 9, 9)
    assert ballot_make(1, 2, 1, 1) > ballot_make(1, 1, 9, 9)
    assert ballot_make(1, 1, 2, 1) > ballot_make(1, 1, 1, 9)
    assert ballot_make(1, 1, 1, 2) > ballot_make(1, 1, 1, 1)


def test_no_ballot_has_time_zero_and_lies_below_every_ballot() -> None:
    assert ballot_stamp(NO_BALLOT) == ballot_ms(NO_BALLOT) == 0
    assert ballot_make(0, 0, 0, 0) > NO_BALLOT


def test_the_greatest_ballot_of_a_time_covers_every_ballot_of_it_and_none_after() -> None:
    """R11."""
    covering = ballot_greatest_at(stamp(3))
    assert len(covering) == BALLOT_BYTES
    assert covering >= ballot_make(stamp(3), 2**64 - 1, 2**32 - 1, 2**64 - 1)
    assert covering < ballot_make(stamp(4), 0, 0, 0)


def test_no_ballot_of_an_issuer_is_ever_used_twice_though_its_clock_stands() -> None:
    """R5: the issue number counts every ballot, `next` included."""
    issuer = BallotIssuer(5, 3)
    made = []
    for _ in range(50):
        made.append(issuer.issue(100, NO_BALLOT))
        made.append(issuer.follow(made[-1]))
    assert len(set(made)) == 100


def test_an_issued_ballot_lies_above_the_one_seen_by_one_counter_step_and_does_not_wait_for_time() -> None:
    """R5."""
    seen = ballot_make(1000, 2**64 - 1, 2**32 - 1, 2**64 - 1)
    made = BallotIssuer(1, 1).issue(10, seen)
    assert made > seen
    assert ballot_stamp(made) == 1001


def test_a_clock_ahead_of_what_was_seen_is_used_as_it_is() -> None:
    assert ballot_stamp(BallotIssuer(1, 1).issue(2000, ballot_make(1000, 1, 1, 1))) == 2000


def test_the_following_ballot_has_the_same_time_and_lies_above() -> None:
    """R16."""
    issuer = BallotIssuer(1, 1)
    made = issuer.issue(7, NO_BALLOT)
    following = issuer.follow(made)
    assert following > made
    assert ballot_stamp(following) == 7
    assert following < BallotIssuer(2, 1).issue(7, NO_BALLOT), "no other node's ballot of the same time lies between"


def test_versions_of_a_batch_rise_and_an_eventual_write_on_them_is_later_than_all() -> None:
    """R7."""
    batch = [version(3, index) for index in range(3)]
    assert batch == sorted(set(batch))
    assert version_eventual(ballot(3), 1, 0) > batch[-1]
    assert version_eventual(ballot(3), stamp(10**5), 2**64 - 1) < version(4)


def test_a_fold_keeps_the_sballot_of_its_base_and_takes_the_stamp_of_the_entry() -> None:
    """R7."""
    folded = version_fold(version(3, 2), eventual(1, 9))
    assert version_sballot(folded) == ballot(3)
    assert version_stamp(folded) == stamp(9)
    assert version_sballot(version_fold(NO_VERSION, eventual(0, 9))) == NO_SBALLOT


def test_a_fold_over_a_purged_tombstone_has_the_version_of_its_entry() -> None:
    """R7, R38: with a smaller one the copies of the entry would prove every later round stale."""
    assert version_fold(NO_VERSION, eventual(1, 9)) == eventual(1, 9)


def test_a_strong_version_has_no_stamp() -> None:
    assert version_stamp(version(3, 7)) == version_stamp(NO_VERSION) == 0
    assert len(version_strong(ballot(1), 0)) == VERSION_BYTES


# -- entry_counts (R15)


def test_an_entry_counts_over_exactly_the_base_it_had_seen() -> None:
    """R15."""
    assert entry_counts(entry(3, 1), version(3), False)
    assert entry_counts(entry(3, 1), version(3, 2), False)


@pytest.mark.parametrize("base", [2, 4])
def test_an_entry_based_on_another_change_does_not_count(base: int) -> None:
    """R15: neither over a later change (superseded) nor over an earlier one (the round is stale)."""
    assert not entry_counts(entry(base, 99), version(3), False)


def test_an_entry_that_is_already_folded_or_older_does_not_count() -> None:
    """R15: a fold takes the entry's stamp, so it has at most one effect."""
    folded = version_fold(version(3), eventual(3, 5))
    assert not entry_counts(entry(3, 5), folded, False)
    assert not entry_counts(entry(3, 4), folded, False)
    assert entry_counts(entry(3, 6), folded, False)


def test_an_entry_counts_over_nothing_only_if_its_base_was_nothing() -> None:
    """R15."""
    assert entry_counts(entry(0, 1), NO_VERSION, True)
    assert not entry_counts(entry(2, 1), NO_VERSION, True)
    assert not entry_counts(entry(0, 1, absent=False), NO_VERSION, False)


def test_an_entry_flagged_absent_counts_over_a_settled_tombstone_and_not_over_an_unsettled_one() -> None:
    """R15, R38."""
    assert entry_counts(entry(0, 1), version(3), True)
    assert not entry_counts(entry(0, 1), version(3), False)


# -- entry_proves_stale (R15)


def test_an_entry_naming_a_greater_sballot_proves_that_the_quorum_missed_a_change() -> None:
    """R15."""
    assert entry_proves_stale(entry(4, 1), version(3))
    assert entry_proves_stale(entry(4, 1), NO_VERSION)
    assert not entry_proves_stale(entry(3, 1), version(3))
    assert not entry_proves_stale(entry(2, 99), version(3))
    assert not entry_proves_stale(entry(0, 99), NO_VERSION)


# -- entry_visible (R8)


def test_a_replica_shows_an_entry_with_a_greater_sballot_or_an_equal_one_and_a_later_stamp() -> None:
    """R8."""
    assert entry_visible(entry(4, 1), version(3), False)
    assert entry_visible(entry(3, 1), version(3), False)
    assert entry_visible(entry(0, 1), NO_VERSION, False)


def test_a_replica_shows_its_record_over_entries_that_had_not_seen_it() -> None:
    """R8, C4: no stamp, however late, beats a strong write that it had not seen."""
    assert not entry_visible(entry(2, 10**4), version(3), False)
    assert not entry_visible(entry(0, 10**4), version(3), False)
    assert not entry_visible(entry(3, 1), version_fold(version(3), eventual(3, 1)), False)


def test_a_settled_tombstone_shows_only_entries_flagged_absent_or_later() -> None:
    """R8, R38."""
    assert entry_visible(entry(0, 1), version(3), True)
    assert not entry_visible(entry(2, 1), version(3), True)


# -- texts


def test_texts_name_their_parts_and_a_dash_stands_for_none() -> None:
    assert ballot_text(NO_BALLOT) == version_text(NO_VERSION) == "-"
    assert ballot_text(ballot_make((5 << 16) + 2, 10, 3, 4)) == "5.2@000000000000000a/3#4"
    assert ballot_text(ballot_greatest_at((5 << 16) + 2)) == "up to 5.2"
    assert version_text(version(1, 4)).endswith(" + 4")
    assert version_text(eventual(0, 1)).startswith("no strong change + ")
