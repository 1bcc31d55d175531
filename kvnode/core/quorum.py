"""Quorum sizes and tallies: a vote is won, lost, or still pending.

Decides: how many replies are enough, and when they have become impossible.  Leaves to others: who is asked and what a reply
says.  Replicas are counted by their index in the key's owner list, each once: a duplicate or a stranger never counts (R28).

Sources: protocol R26-R28; Howard, Malkhi, Spiegelman, "Flexible Paxos" (2016); etcd-io/raft `quorum` for the third state.
"""

from __future__ import annotations

from typing import NamedTuple


class Quorums(NamedTuple):
    """The sizes for one store: N copies, Q1 to prepare, Q2 to accept, with Q1 + Q2 > N (R26)."""

    n: int
    q1: int
    q2: int

    @property
    def read(self) -> int:
        """Replies that a fast read needs: every accept quorum has a member among them (R20)."""
        return self.n - self.q2 + 1

    @property
    def anchored(self) -> int:
        """Replies that a negative answer needs beside one committed mark (R17)."""
        return max(self.q1, self.read)


class Tally:
    """Yes and no of at most `size` voters.  `won` and `lost` exclude each other; neither means pending."""

    __slots__ = ("need", "no", "size", "yes")

    def __init__(self, size: int, need: int) -> None:
        self.size = size
        self.need = need
        self.yes = 0
        self.no = 0

    def add_yes(self, voter: int) -> None:
        """Count a yes; a second vote of the same voter changes nothing."""
        bit = 1 << voter
        if not (self.yes | self.no) & bit:
            self.yes |= bit

    def add_no(self, voter: int) -> None:
        """Count a no; a second vote of the same voter changes nothing."""
        bit = 1 << voter
        if not (self.yes | self.no) & bit:
            self.no |= bit

    @property
    def won(self) -> bool:
        """True once enough have said yes."""
        return self.yes.bit_count() >= self.need

    @property
    def lost(self) -> bool:
        """True once so many have said no that winning has become impossible."""
        return self.size - self.no.bit_count() < self.need

    def invariants(self) -> None:
        """Raise AssertionError if a voter is on both sides or a stranger voted."""
        assert not self.yes & self.no
        assert (self.yes | self.no) < 1 << self.size
        assert not (self.won and self.lost)
