"""R26-R28: votes are won, lost or pending; each member counts once."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from kvnode.core.quorum import Quorums, Tally

SIZES = [
    Quorums(1, 1, 1),
    Quorums(3, 2, 2),
    Quorums(4, 2, 3),
    Quorums(4, 3, 2),
    Quorums(5, 3, 3),
    Quorums(5, 2, 4),
    Quorums(7, 4, 4),
]


@pytest.mark.parametrize("quorums", SIZES)
def test_a_read_set_meets_every_accept_quorum(quorums: Quorums) -> None:
    """R20, R26."""
    nodes = range(quorums.n)
    for read, accept in product(combinations(nodes, quorums.read), combinations(nodes, quorums.q2)):
        assert set(read) & set(accept)
    assert quorums.anchored == max(quorums.q1, quorums.read)


@pytest.mark.parametrize("quorums", [size for size in SIZES if size.n > 1])
def test_a_smaller_read_set_misses_some_accept_quorum(quorums: Quorums) -> None:
    """M10a."""
    nodes = set(range(quorums.n))
    small = set(range(quorums.read - 1))
    assert len(nodes - small) >= quorums.q2


def test_a_vote_is_pending_until_won() -> None:
    tally = Tally(0b111, 2)
    tally.add_yes(0)
    assert not tally.won
    assert not tally.lost
    tally.add_yes(2)
    assert tally.won
    tally.invariants()


def test_a_vote_is_lost_as_soon_as_winning_is_impossible() -> None:
    tally = Tally(0b111, 2)
    tally.add_no(0)
    assert not tally.lost
    tally.add_no(1)
    assert tally.lost
    assert not tally.won


def test_a_duplicate_does_not_count() -> None:
    """R28."""
    tally = Tally(0b111, 2)
    for _ in range(3):
        tally.add_yes(1)
        tally.add_no(2)
    assert not tally.won
    assert not tally.lost


def test_a_stranger_does_not_count() -> None:
    """R28: an owner's index may be high; an index that is no owner's is nobody's."""
    tally = Tally(0b1011, 2)
    for stranger in (2, 4, 200):
        tally.add_yes(stranger)
        tally.add_no(stranger)
    assert tally.yes == tally.no == 0
    tally.add_yes(3)
    tally.add_yes(0)
    assert tally.won


def test_the_first_word_of_a_voter_stands() -> None:
    tally = Tally(0b111, 2)
    tally.add_yes(0)
    tally.add_no(0)
    tally.add_no(1)
    tally.add_yes(1)
    assert tally.yes == 0b001
    assert tally.no == 0b010
    tally.invariants()


def test_a_vote_that_needs_more_than_there_are_is_lost_from_the_start() -> None:
    assert Tally(0b1, 2).lost
