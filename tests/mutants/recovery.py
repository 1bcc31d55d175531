"""What a node never gets over although its cause has gone: it must take writes again, once its clock is right, or its
disk takes rows (R4, R29)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvnode.service.health import Health
from kvnode.service.replica import Replica
from kvnode.service.steady import SteadyClock


def _for_ever(ask: Callable[..., bool], answer: bool) -> Callable[..., bool]:
    """Return a question that goes on being answered as soon as it once was `answer`."""
    settled: dict[int, Any] = {}

    def asked(of: Any, *arguments: Any) -> bool:
        if ask(of, *arguments) is answer:
            settled[id(of)] = of  # held, so that no other gets its id
        return answer if id(of) in settled else not answer

    return asked


def a_clock_is_wrong_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Health, "clock_is_good", _for_ever(Health.clock_is_good, answer=False))


def leaps_are_followed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SteadyClock, "wall_ms", SteadyClock.machine_ms)


def a_disk_is_clogged_for_ever(patch: pytest.MonkeyPatch) -> None:
    honest: Any = Replica.is_clogged
    patch.setattr(Replica, "is_clogged", property(_for_ever(honest.fget, answer=True)))
