"""R21, R23: what an operation knows of its own attempts."""

from __future__ import annotations

from unit.core.made import operation, put

from kvnode.core.operation import NOT_APPLIED, Result


def test_an_operation_without_steps_is_a_read() -> None:
    assert operation().is_read
    assert not operation(put()).is_read


def test_a_first_try_is_a_first_attempt_that_was_in_no_accept() -> None:
    """R17, R23."""
    made = operation(put())
    assert made.is_first_try
    made.was_proposed = True
    assert not made.is_first_try


def test_a_second_attempt_is_never_a_first_try() -> None:
    """R23: an earlier one may still be on its way."""
    assert not operation(put(), attempt=2).is_first_try


def test_nothing_is_settled_or_in_doubt_unless_said() -> None:
    """R21."""
    assert not Result(NOT_APPLIED).is_settled
    assert not operation(put()).is_in_doubt
