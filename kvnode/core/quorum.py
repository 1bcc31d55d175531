"""Quorum sizes and tallies: a vote is won, lost, or still pending.

Decides: how many replies are enough, and when they have become impossible.  Leaves to others: who is asked and what a
reply says.  A voter is a node's index; only the key's owners are counted, each once: a duplicate or a stranger never
counts (R28).

Sources: protocol R26-R28; Howard, Malkhi, Spiegelman, "Flexible Paxos" (2016); etcd-io/raft `quorum` for the third
state.
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
    """Yes and no of the voters in `members` (bits).  `won` and `lost` exclude each other; neither means pending."""

    __slots__ = ("members", "need", "no", "yes")

    def __init__(self, members: int, need: int) -> None:
        self.members = members
        self.need = need
        self.yes = 0
        self.no = 0

    def add_yes(self, voter: int) -> None:
        """Count a yes; a stranger's vote, and a second one of the same voter, change nothing."""
        self.yes |= 1 << voter & self.members & ~self.no

    def add_no(self, voter: int) -> None:
        """Count a no; a stranger's vote, and a second one of the same voter, change nothing."""
        self.no |= 1 << voter & self.members & ~self.yes

    @property
    def won(self) -> bool:
        """True once enough have said yes."""
        return self.yes.bit_count() >= self.need

    @property
    def lost(self) -> bool:
        """True once so many have said no that winning has become impossible."""
        return (self.members & ~self.no).bit_count() < self.need

    def invariants(self) -> None:
        """Raise AssertionError if a voter is on both sides or a stranger was counted."""
        assert not self.yes & self.no
        assert not (self.yes | self.no) & ~self.members
        assert not (self.won and self.lost)
