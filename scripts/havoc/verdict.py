"""The verdict on a run: what the checkers find in its history, and what must not happen besides.

Decides: that besides a broken promise these are violations: a node that ended by itself, without being meant to; a node
that does not come back; a majority that does not serve; a key that cannot be read, and a node that takes no writes,
when nothing is wrong any more; replicas that do not come to hold the same without a read, and debts that are not paid.
A key whose history could not be judged is none, but it is said, and more than `UNJUDGED_SHARE_MAX` of them are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from checkers.judge import judge
from checkers.operation import Operation
from checkers.report import Finding

from scripts.havoc import measure
from scripts.havoc.agreement import State
from scripts.havoc.attack import MAJORITY_SERVES
from scripts.havoc.cluster import COPIES_MAX
from scripts.havoc.run import Course, Window
from scripts.havoc.workload import Unread

OUTAGE_S_MAX: Final = 5.0
"""For how long no strong operation at all may succeed under a fault that leaves a majority: what a client waits, and as
much again for a machine that is busy."""
UNJUDGED_SHARE_MAX: Final = 0.01
"""Of the keys that a checker looks at, this share, or one key, may be too hard for it; beyond that a run proves too
little."""
EVIDENCE_MAX: Final = 12
"""The last operations on a key that are shown where its replicas differ."""
DIFFERING_MAX: Final = 20
"""Keys whose replicas differ that are shown one by one."""
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
    unjudged: Sequence[str] = ()
    """The keys that it could not judge."""


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
        """True if nothing was violated.  Look at `unjudged` too."""
        return not self.violations

    @property
    def unjudged(self) -> list[tuple[str, str]]:
        """(checker, key) of whatever could not be judged."""
        return [(judgement.name, key) for judgement in self.judgements for key in judgement.unjudged]

    def __str__(self) -> str:
        count, unjudged = len(self.violations), self.unjudged
        words = "no violation" if self.is_ok else f"{count} violation{'s' if count > 1 else ''}"
        if unjudged:
            some = ", ".join(f"{key} by {checker}" for checker, key in unjudged[:3])
            words += f"; NOT JUDGED: {len(unjudged)} keys ({some}{', ...' if len(unjudged) > 3 else ''})"
        return words


def of(course: Course) -> Verdict:
    """Judge a run."""
    deaths = [Violation(death.node, death.words) for death in course.deaths]
    troubles = [Violation("cluster", words) for words in course.troubles]
    nodes = f"{course.nodes} nodes"
    return Verdict(
        [
            *_of_history(_coordinated(course)),
            _agreement(course),
            _debts(course),
            _of_cluster("no death", "No node ends by itself, unless its own disk fails it.", nodes, deaths),
            _of_cluster("recovery", "Every node serves again when its fault has ended.", nodes, troubles),
            _of_cluster(
                "liveness",
                "At rest every node takes writes, and every key can be read from it, in every way.",
                nodes,
                [*_unread(course.unread), *_unwritten(course)],
            ),
            _reserve(course),
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
        is_excused = operation.call_ns < course.ahead_until_ns.get(operation.node, 0)
        if operation.node and not is_excused and not operation.is_read:
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


def _coordinated(course: Course) -> list[Operation]:
    """Return the operations, with the node that was asked only where every node owns a copy, and so coordinates."""
    if course.nodes <= COPIES_MAX:
        return course.operations
    return [replace(operation, node="") for operation in course.operations]


def _of_history(operations: Sequence[Operation]) -> list[Judgement]:
    judgements = []
    for result in judge(operations).checkers:
        found = [Violation(finding.key, finding.message, finding) for finding in result.findings]
        judged = f"{result.keys} keys" + (f", {len(result.unknown)} NOT JUDGED" if result.unknown else "")
        if len(result.unknown) > max(1, UNJUDGED_SHARE_MAX * result.keys):
            words = f"{len(result.unknown)} of {result.keys} keys could not be judged; {UNJUDGED_SHARE_MAX:.0%} may be"
            found.append(Violation(", ".join(result.unknown[:3]), words))
        judgements.append(Judgement(result.name, result.promise, result.verdict, judged, found, result.unknown))
    return judgements


def _agreement(course: Course) -> Judgement:
    """Say whether all replicas came to hold the same without a read."""
    promise = (
        f"{course.heal_s:g} s after the last fault, and the last operation, all replicas of every key hold the same,"
    )
    promise += " without a read."
    found: list[Violation] = []
    for moment, healed in course.healed.items():
        found += [_differing(course.operations, moment, state) for state in healed.differing[:DIFFERING_MAX]]
        if more := healed.differing[DIFFERING_MAX:]:
            found.append(Violation(f"{more[0].key}, ...", f"{moment} the replicas of {len(more)} more keys differ"))
    judged = ", ".join(f"{healed.keys} keys {moment}: {healed.after}" for moment, healed in course.healed.items())
    return _of_rest("agreement", promise, judged, found)


def _differing(operations: Sequence[Operation], moment: str, state: State) -> Violation:
    """Return a key whose replicas differ, with what they hold and the last that was done to it before."""
    words = f"{moment} its replicas do not agree by themselves: {state}"
    last = [operation for operation in operations if operation.key == state.key and not operation.is_final]
    return Violation(state.key, words, Finding("agreement", state.key, words, last[-EVIDENCE_MAX:]))


def _debts(course: Course) -> Judgement:
    """Say whether everything that was owed was paid, and everything proposed decided."""
    promise = "At rest no node owes another anything, and no proposal is left undecided."
    found = [
        Violation(words.partition(" ")[0], f"{moment} {words}")
        for moment, healed in course.healed.items()
        for words in healed.unpaid
    ]
    return _of_rest("debts", promise, f"{course.nodes} nodes" if course.healed else "", found)


def _reserve(course: Course) -> Judgement:
    """Say whether full disks did what they must."""
    promise = "Below its reserve a disk takes no write, and says so; reads go on; with room again writes succeed."
    wrong = [Violation(probe.node, probe.words) for probe in course.probes if not probe.is_right]
    return _of_rest("disk reserve", promise, f"{len(course.probes)} questions" if course.probes else "", wrong)


def _of_rest(name: str, promise: str, judged: str, violations: list[Violation]) -> Judgement:
    verdict = "violated" if violations else "holds" if judged else "nothing to judge"
    return Judgement(name, promise, verdict, judged, violations)


def _of_cluster(name: str, promise: str, judged: str, violations: list[Violation]) -> Judgement:
    return Judgement(name, promise, "violated" if violations else "holds", judged, violations)
