"""Cuts short what a purge waits for, in runs whose deletes are purged: minutes of the product are moments here.

Decides: which waits are shorter, and by how much.  Safety rests on none of them: R24 lets an outcome be forgotten by
the time of a ballot, whatever the margin; the others only say when something is tried (again).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from kvnode.core import window
from kvnode.service.healing import purge, rowscan

KEPT_MS: Final = 500
"""How long outcomes are kept beyond their deadlines, in place of `window.KEEP_AFTER_DEADLINE_MS`."""
_WAITS: Final[tuple[tuple[Any, str, float], ...]] = (
    (window, "KEEP_AFTER_DEADLINE_MS", KEPT_MS),
    (purge, "_QUIET_S", 0.2),
    (purge, "_RETRY_S", 1.0),
    (purge, "_ANSWER_S", 1.0),
    (rowscan, "_FIRST_S", 0.3),
)


@contextmanager
def hastened(*, is_purged: bool) -> Iterator[None]:
    """Let waits be short while the context lasts; change nothing in runs without purges."""
    usual = [getattr(module, name) for module, name, _ in _WAITS]
    try:
        for module, name, short in _WAITS if is_purged else ():
            setattr(module, name, short)
        yield
    finally:
        for (module, name, _), value in zip(_WAITS, usual, strict=True):
            setattr(module, name, value)


def kept_ms(*, is_purged: bool) -> int:
    """Return how long outcomes are kept beyond their deadlines in such a run."""
    return KEPT_MS if is_purged else window.KEEP_AFTER_DEADLINE_MS
