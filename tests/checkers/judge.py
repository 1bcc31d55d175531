"""Judges a history by everything that is promised: the one call for simulator, chaos runs and scripts.

Decides: which checker looks at which key, in which order, and how much time a hard key may take.  Nothing here hangs:
searches are bounded, key by key and in all, and a key whose search was given up is reported as unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Final

from checkers import convergence, counters, linear, origin, succession, superseded, unique, versions
from checkers.keyed import KeyHistory, by_key
from checkers.operation import Operation
from checkers.report import CheckerResult, Finding, Report
from checkers.search import STEPS_MAX, Verdict
from checkers.shrink import STEPS_MAX as SHRINK_STEPS_MAX

Check = Callable[[KeyHistory], Finding | Verdict | None]

STEPS_IN_ALL_MAX: Final = 1_000_000
"""Configurations that all searches together may look at beyond what an easy key needs: well below a minute."""
STEPS_PER_OPERATION: Final = 20
"""What each key may take anyway."""


def judge(
    operations: Iterable[Operation],
    finals: Iterable[Operation] = (),
    *,
    steps_max: int = STEPS_MAX,
    steps_in_all_max: int = STEPS_IN_ALL_MAX,
) -> Report:
    """Return the verdicts of all checkers on a history.

    `finals` are reads at rest that were recorded apart; those of `operations` that are marked as final count, too.
    """
    history = [*operations, *(replace(final, is_final=True) for final in finals)]
    keys = by_key(history)
    report = Report(len(history), len(keys), dict(Counter(map(_outcome, history))))
    searches = _Searches(steps_max, steps_in_all_max)
    for name, promise, applies, check in _checkers(searches):
        report.checkers.append(_run(CheckerResult(name, promise), keys, applies, check))
    return report


def _outcome(operation: Operation) -> str:
    return operation.status if operation.result else "refused"


class _Searches:
    """The searches of one history, and what they may still cost."""

    def __init__(self, steps_max: int, in_all_max: int) -> None:
        self._steps_max = steps_max
        self._left = in_all_max
        self._found = 0

    def check(self, history: KeyHistory) -> Finding | Verdict:
        """Search for an explanation of one key's history."""
        anyway = STEPS_PER_OPERATION * len(history.operations)
        verdict, looked = linear.verdict(history, anyway + min(self._steps_max, self._left))
        self._left -= max(0, looked - anyway)
        if verdict is not Verdict.CONTRADICTED:
            return verdict
        self._found += 1
        return linear.finding(history, SHRINK_STEPS_MAX // self._found)


def _checkers(searches: _Searches) -> Sequence[tuple[str, str, Callable[[KeyHistory], bool], Check]]:
    return (
        (linear.LINEAR, "Strong operations are linearizable.", _is_strong_only, searches.check),
        (
            linear.MIXED,
            "Strong operations are linearizable with eventual writes that float.",
            _is_mixed,
            searches.check,
        ),
        (
            superseded.NAME,
            "What is acknowledged is not lost; what is replaced does not come back.",
            _any,
            superseded.check,
        ),
        (
            succession.NAME,
            "Of two eventual changes through one node the later one wins.",
            _has_node_finals,
            succession.check,
        ),
        (origin.NAME, "Nothing is shown that was not written.", _any, origin.check),
        (unique.NAME, "One write wins over an ETag, one create wins a life of a key.", _has_checks, unique.check),
        (versions.NAME, "An ETag names one value, and versions rise.", _has_etags, versions.check),
        (counters.NAME, "An increment counts once.", _is_counter, counters.check),
        (convergence.NAME, "At rest all replicas agree.", _has_finals, convergence.check),
    )


def _any(history: KeyHistory) -> bool:
    return True


def _is_mixed(history: KeyHistory) -> bool:
    return history.is_mixed and any(operation.is_strong for operation in history.operations)


def _is_strong_only(history: KeyHistory) -> bool:
    return not history.is_mixed


def _has_checks(history: KeyHistory) -> bool:
    return any(operation.is_checked for operation in history.operations)


def _has_etags(history: KeyHistory) -> bool:
    return any(operation.etag or operation.saw_etag for operation in history.operations)


def _is_counter(history: KeyHistory) -> bool:
    return history.is_counter


def _has_finals(history: KeyHistory) -> bool:
    return len(convergence.final_reads(history)) > 1


def _has_node_finals(history: KeyHistory) -> bool:
    reads = any(operation.is_final for operation in history.operations)
    return reads and any(change.node and not change.is_strong for change in history.changes)


def _run(
    result: CheckerResult, keys: Sequence[KeyHistory], applies: Callable[[KeyHistory], bool], check: Check
) -> CheckerResult:
    started_s = perf_counter()
    for history in keys:
        if not applies(history):
            continue
        result.keys += 1
        found = check(history)
        if isinstance(found, Finding):
            result.findings.append(found)
        elif found is Verdict.TOO_HARD:
            result.unknown.append(history.key)
    result.elapsed_s = perf_counter() - started_s
    return result
