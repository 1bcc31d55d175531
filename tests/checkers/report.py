"""What the checkers found: findings, each with the smallest bad part of the history, and the verdict on each promise.

A verdict says what was judged.  "Violated" has evidence; "holds" means that this history does not contradict the
promise, which is no proof; "unknown" means that the search for an explanation was given up, which is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from checkers.operation import Operation, describe


@dataclass(frozen=True)
class Finding:
    """A promise that a history breaks: one sentence, and the operations that show it."""

    checker: str
    key: str
    message: str
    evidence: Sequence[Operation]

    def as_json(self) -> dict[str, Any]:
        """Return the finding as JSON gives it."""
        evidence = [asdict(operation) | {"text": describe(operation)} for operation in self.evidence]
        return {"checker": self.checker, "key": self.key, "message": self.message, "evidence": evidence}


@dataclass
class CheckerResult:
    """What one checker says about a whole history."""

    name: str
    promise: str
    keys: int = 0
    """How many keys it had something to say about."""
    elapsed_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """The keys that it could not judge."""

    @property
    def verdict(self) -> str:
        """One of violated, unknown, holds and "nothing to judge"."""
        if self.findings:
            return "violated"
        if self.unknown:
            return "unknown"
        return "holds" if self.keys else "nothing to judge"


@dataclass
class Report:
    """The verdicts on a history."""

    operations: int
    keys: int
    counts: dict[str, int]
    """Operations by outcome: ok, refused, fail, info."""
    checkers: list[CheckerResult] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        """True if nothing was violated.  Look at `unknown` too: what could not be judged is not ok by itself."""
        return not self.findings

    @property
    def findings(self) -> list[Finding]:
        """All findings, in the order of the checkers."""
        return [finding for checker in self.checkers for finding in checker.findings]

    @property
    def unknown(self) -> list[tuple[str, str]]:
        """(checker, key) of whatever could not be judged."""
        return [(checker.name, key) for checker in self.checkers for key in checker.unknown]

    def __str__(self) -> str:
        lines = [f"{self.operations} operations on {self.keys} keys"]
        lines += [f"{finding.checker}: {finding.key}: {finding.message}" for finding in self.findings]
        lines += [f"{name}: {key}: unknown: too many unknown outcomes" for name, key in self.unknown]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON gives it."""
        return {
            "operations": self.operations,
            "keys": self.keys,
            "counts": self.counts,
            "ok": self.is_ok,
            "checkers": [
                {
                    "name": checker.name,
                    "promise": checker.promise,
                    "verdict": checker.verdict,
                    "keys": checker.keys,
                    "elapsed_s": round(checker.elapsed_s, 3),
                    "unknown_keys": checker.unknown,
                    "findings": [finding.as_json() for finding in checker.findings],
                }
                for checker in self.checkers
            ],
        }
