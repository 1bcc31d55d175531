"""The oracle of the one-key model: it sees every acceptor and knows from which record each record was made.

Decides: whether a schedule broke the protocol.  A *lineage* is the sequence of effects (operations, folded entries,
tombstones of expiry or evidence) that made a record; each effect replaces the value, so a lineage also says what a
reader must see.  The checks of docs/testing.md section 3, as far as one key can show them:

- one record per ballot; no effect twice in a lineage (R5, R10, R23);
- chosen records extend one another, and their versions rise (P1, R7);
- what is answered is a prefix of a chosen lineage, and not older than what was answered before it was asked (P2, R17);
- "not applied" and "conflict" hold for ever (R21, R23);
- an eventual write is not folded or shown over a chosen change that it had not seen (P4, R8, R15), and a round does not
  pass over one that all replicas held before it began (R10).

Caveat: effects are recorded from what the code under test did, then compared with each other; the oracle has no opinion
on which of two concurrent operations should win.
"""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple

from kvclient.wire.values import (
    BALLOT_BYTES,
    NO_BALLOT,
    NO_SBALLOT,
    Ballot,
    Version,
    body_content,
    body_times,
    body_version,
)
from kvnode.core import operation as op
from kvnode.core.operation import CHECK_ABSENT, CHECK_ETAG, Operation, Result
from kvnode.core.quorum import Quorums
from kvnode.core.record import Entry, Record, entry_body, entry_version
from kvnode.core.version import ballot_ms, entry_counts, version_sballot
from kvnode.core.window import Window


class Violation(AssertionError):
    """The schedule did what the protocol excludes."""


class Effect(NamedTuple):
    """One step of a lineage.  `name` is an operation's id, or says what else it was."""

    kind: str
    name: object
    version: Version
    content: bytes


Lineage = tuple[Effect, ...]


class Decision(NamedTuple):
    """What one run of the change function did, and from what."""

    base: Record
    base_ballot: Ballot
    entry: Entry
    lineage: Lineage
    points: tuple[Lineage, ...]
    """For each operation: the lineage at which its result holds."""


class Oracle:
    """Judge of one schedule."""

    def __init__(self, quorums: Quorums) -> None:
        self.quorums = quorums
        self.proposals: dict[Ballot, Record] = {}
        self.lineages: dict[Ballot, Lineage] = {NO_BALLOT: ()}
        self.holders: dict[Ballot, set[int]] = {}
        self.chosen: list[Ballot] = []
        self.chosen_lineage: Lineage = ()
        self.chosen_operations: set[object] = set()
        self.answered: Lineage = ()
        """The longest lineage that any client was told of."""
        self.refused: set[object] = set()
        self.seen: dict[Version, frozenset[object]] = {}
        """Eventual version -> the strong operations that its writer had seen."""

    # -- what rounds do

    def decide(
        self, ballot: Ballot, base: Record, base_ballot: Ballot, entry: Entry, work: list[Operation], got: list[Result]
    ) -> Decision:
        """Return the lineage that a run of the change function stands for, checking each step of it."""
        line = self.lineages[base_ballot]
        if entry:
            line = self._folded(line, base, entry)
        body = entry_body(entry) if entry else base.body
        if body and body_content(body) and 0 < body_times(body)[0] <= ballot_ms(ballot):
            line = (*line, Effect("expired", ballot, Version(ballot + bytes(16)), b""))
        points = []
        done = set()
        for operation, result in zip(work, got, strict=True):
            name = (operation.session, operation.sequence)
            if result.kind == op.APPLIED and result.version[:BALLOT_BYTES] == ballot:
                line = self._applied(line, operation, result.version)
            elif result.kind in (op.VALUE, op.CONFLICT):
                is_repeat = name in done or Window.decode(base.window).find(*name) is not None
                _check_shown(line, operation, result, is_repeat)
            done.add(name)
            points.append(line)
        return Decision(base, base_ballot, entry, line, tuple(points))

    def _folded(self, line: Lineage, base: Record, entry: Entry) -> Lineage:
        version = entry_version(entry)
        missed = (_operations(line) & self.chosen_operations) - self.seen[version]
        if missed:
            raise Violation(f"an entry was folded over chosen operations it had not seen: {missed} (R15)")
        if any(effect.name == version for effect in line):
            raise Violation("an entry was folded twice")
        folded = Version((base.body[:BALLOT_BYTES] or NO_SBALLOT) + version[BALLOT_BYTES:])
        return (*line, Effect("entry", version, folded, body_content(entry_body(entry))))

    def _applied(self, line: Lineage, operation: Operation, version: Version) -> Lineage:
        if any(effect.version == version for effect in line):
            return line  # the same operation once more in one batch: answered from the window
        name = (operation.session, operation.sequence)
        if name in _operations(line):
            raise Violation(f"operation {name} was applied twice (R23)")
        last = line[-1] if line else None
        for step in operation.steps[:1]:
            if step.check == CHECK_ABSENT and last and last.content:
                raise Violation("a create was applied over a value")
            if step.check == CHECK_ETAG and not (last and last.content and last.version == step.version):
                raise Violation("a first-write was applied over another version than its ETag's")
        return (*line, Effect("op", name, version, operation.steps[-1].content))

    def propose(self, ballot: Ballot, record: Record, decision: Decision) -> None:
        """Note the record that a round is about to send with its ballot."""
        line = decision.lineage
        if not line or line[-1].version != record.version:
            if record.content:
                raise Violation("a record was proposed that no effect explains")
            line = (*line, Effect("tombstone", ballot, record.version, b""))
        if record.content != line[-1].content:
            raise Violation("a record has another value than its last effect")
        if self.proposals.setdefault(ballot, record) != record:
            raise Violation("two records were proposed with one ballot (R5, R18)")
        self.lineages[ballot] = line

    # -- what acceptors do

    def hold(self, replica: int, ballot: Ballot) -> None:
        """Note that a replica has accepted `ballot` durably; with Q2 of them it is chosen, at whatever moments."""
        holders = self.holders.setdefault(ballot, set())
        holders.add(replica)
        if len(holders) == self.quorums.q2 and ballot not in self.chosen:
            insort(self.chosen, ballot)
            self._check_chain(ballot)

    def _check_chain(self, ballot: Ballot) -> None:
        line, version = self.lineages[ballot], self.proposals[ballot].version
        at = self.chosen.index(ballot)
        if at:
            before = self.chosen[at - 1]
            self._check_extends(self.lineages[before], line, self.proposals[before].version, version)
        if at + 1 < len(self.chosen):
            after = self.chosen[at + 1]
            self._check_extends(line, self.lineages[after], version, self.proposals[after].version)
        else:
            self.chosen_lineage = line
            self.chosen_operations = _operations(line)
        if self.refused & self.chosen_operations:
            raise Violation(f"refused, and chosen later: {self.refused & self.chosen_operations} (R21, R23)")

    @staticmethod
    def _check_extends(earlier: Lineage, later: Lineage, low: Version, high: Version) -> None:
        if later[: len(earlier)] != earlier:
            raise Violation(f"a chosen record does not contain the one chosen before it: {earlier} {later} (P1)")
        if high < low or version_sballot(high) < version_sballot(low):
            raise Violation("versions fall along the chosen records (R7)")

    def check_shown(self, committed_ballot: Ballot, committed: Version, overlay: Entry) -> None:
        """Check what a replica shows to eventual readers: chosen records, and entries that had seen them (R8)."""
        if committed_ballot and committed_ballot not in self.chosen:
            raise Violation("a record is marked committed that was never chosen (R12)")
        if overlay and entry_version(overlay) > committed:
            missed = _operations(self.lineages[committed_ballot]) - self.seen[entry_version(overlay)]
            if missed:
                raise Violation(f"an entry is shown over chosen operations it had not seen: {missed} (R8)")

    def check_not_passed_over(self, held: Entry, decision: Decision) -> None:
        """Check that an entry which all replicas held when a chosen round began was folded, if it counts (R10)."""
        version, base = entry_version(held), decision.base
        folded = entry_version(decision.entry) if decision.entry else b""
        if entry_counts(held, base.version, not decision.base_ballot) and folded < version:
            raise Violation("a round passed over an eventual write that all replicas held before it began (R10)")

    # -- what clients are told

    def answer(self, point: Lineage, asked: Lineage) -> None:
        """Note that a client was told of `point`, which it asked for when `asked` was the latest answer."""
        if self.chosen_lineage[: len(point)] != point:
            raise Violation(f"an answer was given that is not chosen: {point} of {self.chosen_lineage} (R17, R20)")
        if len(point) < len(asked):
            raise Violation(f"a stale answer: {point} after {asked} (P2)")
        if len(point) > len(self.answered):
            self.answered = point

    def refuse(self, name: object) -> None:
        """Note that a client was told for good that its operation had no effect."""
        self.refused.add(name)
        if name in self.chosen_operations:
            raise Violation(f"operation {name} was refused, and is chosen (R21, R23)")


def _operations(line: Lineage) -> set[object]:
    return {effect.name for effect in line if effect.kind == "op"}


def operations_of(line: Lineage) -> frozenset[object]:
    """Return the strong operations of a lineage."""
    return frozenset(_operations(line))


def _check_shown(line: Lineage, operation: Operation, result: Result, is_repeat: bool) -> None:
    last = line[-1] if line else None
    if body_content(result.body) != (last.content if last else b""):
        raise Violation("a result shows another value than its lineage")
    if result.body and last and body_version(result.body) != last.version:
        raise Violation("a result shows another version than its lineage")
    if result.kind == op.CONFLICT and not is_repeat:
        step = operation.steps[0]
        if step.check == CHECK_ABSENT and not body_content(result.body):
            raise Violation("a create was refused where there is nothing")
