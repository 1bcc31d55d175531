"""The verdict on a run: what the checkers find in its history, and what must not happen besides.

Decides: that besides a broken promise these are violations: a node that ended by itself, without being meant to; a node
that does not come back; a majority that does not serve; a key that cannot be read, and a node that takes no writes,
when nothing is wrong any more.  A key whose history could not be judged is none, but it is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from checkers.judge import judge
from checkers.operation import Operation
from checkers.report import Finding

from scripts.havoc import measure
from scripts.havoc.nemeses import MAJORITY_SERVES
from scripts.havoc.run import Course, Window
from scripts.havoc.workload import Unread

OUTAGE_S_MAX: Final = 5.0
"""For how long no strong operation at all may succeed under a fault that leaves a majority: what a client waits, and as
much again for a machine that is busy."""
ASKED_MIN: Final = 3
"""Writes that must have been asked for before it is a finding that none succeeded."""


class Violation(NamedTuple):
    """Something that should not have happened."""

    key: str
    """Or the node that it concerns."""
    words: str
    finding: Finding | None = None
    """With the operations that show it, if a history does."""


class Judgement(NamedTuple):
    """What one checker says."""

    name: str
    promise: str
    verdict: str
    """violated, holds, unknown, or "nothing to judge"."""
    judged: str
    """What it looked at."""
    violations: Sequence[Violation] = ()


class Verdict(NamedTuple):
    """What is said of a run."""

    judgements: list[Judgement]

    @property
    def violations(self) -> list[str]:
        """Every violation in a sentence."""
        return [
            f"{judgement.name}: {violation.key}: {violation.words}"
            for judgement in self.judgements
            for violation in judgement.violations
        ]

    @property
    def is_ok(self) -> bool:
        """True if nothing was violated."""
        return not self.violations


def of(course: Course) -> Verdict:
    """Judge a run."""
    deaths = [Violation(death.node, death.words) for death in course.deaths]
    troubles = [Violation("cluster", words) for words in course.troubles]
    nodes = f"{course.nodes} nodes"
    return Verdict(
        [
            *_of_history(course.operations),
            _of_cluster("no death", "No node ends by itself, unless its own disk fails it.", nodes, deaths),
            _of_cluster("recovery", "Every node serves again when its fault has ended.", nodes, troubles),
            _of_cluster(
                "liveness",
                "At rest every node takes writes, and every key can be read from it, in every way.",
                nodes,
                [*_unread(course.unread), *_unwritten(course)],
            ),
            _of_cluster("availability", "A majority serves.", f"{len(_spared(course))} windows", _outages(course)),
        ]
    )


def _spared(course: Course) -> list[Window]:
    """Return the windows whose fault leaves a majority; two faults together may not."""
    return [window for window in course.windows if [MAJORITY_SERVES in n.promise for n in window.nemeses] == [True]]


def _outages(course: Course) -> list[Violation]:
    """Return the windows in which a majority did not serve."""
    found = []
    for window in _spared(course):
        gap_s = measure.summary(course.operations, window.begin_ns, window.end_ns).strong_gap_s
        if gap_s > OUTAGE_S_MAX:
            found.append(Violation(window.name, f"no strong operation succeeded for {gap_s:.1f} s"))
    return found


def _unwritten(course: Course) -> list[Violation]:
    """Return the nodes at which no write succeeded although nothing was wrong any more."""
    asked: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for operation in measure.within(course.operations, course.rest_ns, course.end_ns):
        if operation.node and operation.node not in course.were_ahead and not operation.is_read:
            asked["strong" if operation.is_strong else "eventual", operation.node].append(operation)
    return [
        Violation(node, f"at rest none of {len(writes)} {mode} writes succeeded: {writes[-1].error}")
        for (mode, node), writes in asked.items()
        if len(writes) >= ASKED_MIN and not any(write.is_ok for write in writes)
    ]


def _unread(reads: Iterable[Unread]) -> list[Violation]:
    """Return one violation for all reads that failed alike."""
    alike: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for key, mode, node, error in reads:
        alike[mode, node, error].append(key)
    return [
        Violation(node or "any node", f"{len(keys)} {mode} reads failed ({', '.join(keys[:3])}, ...): {error}")
        for (mode, node, error), keys in alike.items()
    ]


def _of_history(operations: Sequence[Operation]) -> list[Judgement]:
    judgements = []
    for result in judge(operations).checkers:
        found = [Violation(finding.key, finding.message, finding) for finding in result.findings]
        judged = f"{result.keys} keys" + (f", {len(result.unknown)} not judged" if result.unknown else "")
        judgements.append(Judgement(result.name, result.promise, result.verdict, judged, found))
    return judgements


def _of_cluster(name: str, promise: str, judged: str, violations: list[Violation]) -> Judgement:
    return Judgement(name, promise, "violated" if violations else "holds", judged, violations)
