"""What the steps of the walk-through expect, and the sentence about one that did not hold."""

from __future__ import annotations

from collections.abc import Awaitable

from rich.markup import escape

from kvclient import EtagMismatch


class Failed(Exception):
    """A step of the walk-through did not hold; the text says what was expected and what was found."""


def expect(holds: bool, sentence: str) -> None:
    """Raise Failed unless it holds."""
    if not holds:
        raise Failed(sentence)


async def mismatch(write: Awaitable[object]) -> EtagMismatch:
    """Return the error of a write that must lose."""
    try:
        await write
    except EtagMismatch as lost:
        expect(lost.outcome == "not applied", f"a lost check has the outcome {lost.outcome}")
        return lost
    raise Failed("the write was applied, but it must lose")


def reason(error: BaseException) -> str:
    """Return the sentence of an error, or of the first one in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return escape(str(error) or repr(error))
