"""What a check says when it has found something."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn


class Violation(AssertionError):
    """Something that must not be.  `check` names what was broken, the same for the same mistake; the text says how, and
    `evidence` shows it, line by line, where a sentence cannot."""

    def __init__(self, check: str, text: str, evidence: Iterable[str] = ()) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check
        self.evidence = tuple(evidence)


def broken(check: str, text: str, evidence: Iterable[str] = ()) -> NoReturn:
    """Raise a Violation."""
    raise Violation(check, text, evidence)
