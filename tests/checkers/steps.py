"""Steps of a register: what each operation needs of the key's value and what it leaves, for `checkers.search`.

Decides: how an answer becomes a step that must be explained, and how an unknown outcome becomes one that may happen.

- A read, and a check that failed and showed what stood there, *observe* a value.  (A refusal may be given at one moment
  and show what stood there at another, both within the operation: seeing another value than the expected one implies
  the refusal, so one step is enough.)
- A refused create that showed "absent" also *refutes* that: something stood there at another moment.  So does a refusal
  that showed the very version insisted on.
- A write leaves its value; one with a check *swaps* one value for another; an increment whose answer was lost *adds*.
- An expiry is a swap of the value for "absent" that may happen at any time after the write was asked for: histories do
  not say what the clocks of the nodes did.

The server's versions stay outside: a check by ETag is a check for the value that the ETag names.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from checkers.keyed import ABSENT, NEVER_NS, KeyHistory, returned_ns, shows, value_left
from checkers.operation import Operation, Value


class Kind(IntEnum):
    """What a step does; those up to REFUTE leave the value as it is."""

    OBSERVE = 0
    REFUTE = 1
    WRITE = 2
    SWAP = 3
    ADD = 4


class Step(NamedTuple):
    """One thing that happened to the key at one moment from `call` to `by`, or may have."""

    kind: Kind
    needs: Value
    leaves: Value
    """For ADD what is added."""
    call: int
    by: int
    is_must: bool
    fence: int = 0
    """Once it has happened, no floating step whose `floats_until` is below this may happen any more."""
    floats_until: int = NEVER_NS


def steps_of(history: KeyHistory, *, is_mixed: bool) -> tuple[Value, list[Step]]:
    """Return what the key holds at first, and the steps of its operations; those of eventual writes only if mixed."""
    steps = list(strong_steps(history))
    if is_mixed:
        steps.extend(floating_steps(history))
    if all(operation.f != "incr" for operation in history.operations):
        return ABSENT, steps
    return 0, [_as_number(step) for step in steps]


def _as_number(step: Step) -> Step:
    """To an increment an absent key is a zero."""
    needs = 0 if step.needs is ABSENT else step.needs
    return step._replace(needs=needs, leaves=0 if step.leaves is ABSENT else step.leaves)


def strong_steps(history: KeyHistory) -> Iterator[Step]:
    """Return the steps of all strong operations of a key.

    A change of unknown outcome that has an end all the same happened by then or never (`checkers.shrink` makes such).
    An eventual read shows no unchosen proposal (protocol, section 3): a strong write whose value one has shown has been
    chosen by then, so everything asked later finds it or what followed.
    """
    shown = _shown_by(history)
    for operation in history.operations:
        if not operation.is_strong or operation.status == "fail":
            continue
        if shows(operation):
            yield from _observed(operation)
        elif operation.may_change:
            step = change_step(history, operation)
            shown_ns = NEVER_NS if step.kind is Kind.ADD else shown.get(step.leaves, NEVER_NS)
            is_must = step.is_must or shown_ns != NEVER_NS
            yield step._replace(
                by=min(step.by, shown_ns),
                is_must=is_must,
                fence=operation.call_ns,
                floats_until=NEVER_NS if is_must else returned_ns(operation),
            )
            yield from expiry(operation)


def floating_steps(history: KeyHistory) -> Iterator[Step]:
    """Return the steps of all eventual writes of a key: each may happen once, at any moment from its invocation on.

    Never again, though, after a strong change that was asked for after the write had been acknowledged (P4).
    """
    for operation in history.changes:
        if not operation.is_strong:
            step = change_step(history, operation)
            yield step._replace(by=NEVER_NS, is_must=False, floats_until=returned_ns(operation))
            yield from expiry(operation)


def change_step(history: KeyHistory, operation: Operation) -> Step:
    """Return what a change does to the value, if it happens."""
    call, by = operation.call_ns, returned_ns(operation)
    leaves = value_left(operation)
    if operation.f == "incr":
        added = 1 if operation.value is None else int(operation.value)
        if not isinstance(leaves, int):
            return Step(Kind.ADD, ABSENT, added, call, by, operation.is_ok)
        return Step(Kind.SWAP, leaves - added, leaves, call, by, True)
    if operation.f == "create":
        return Step(Kind.SWAP, ABSENT, leaves, call, by, operation.is_ok)
    if operation.etag is not None and operation.etag in history.etags:
        return Step(Kind.SWAP, history.etags[operation.etag], leaves, call, by, operation.is_ok)
    return Step(Kind.WRITE, ABSENT, leaves, call, by, operation.is_ok)


def expiry(operation: Operation) -> Iterator[Step]:
    """Return the step by which a written value becomes absent by itself (R63)."""
    if operation.ttl_ms:
        yield Step(Kind.SWAP, operation.value, ABSENT, operation.call_ns, NEVER_NS, False)


def _observed(operation: Operation) -> Iterator[Step]:
    call, by, saw = operation.call_ns, returned_ns(operation), operation.saw
    yield Step(Kind.OBSERVE, saw, saw, call, by, True)
    if not operation.result and _shows_what_was_asked_for(operation):
        yield Step(Kind.REFUTE, saw, saw, call, by, True)


def _shows_what_was_asked_for(refused: Operation) -> bool:
    if refused.f == "create":
        return refused.saw is ABSENT
    return refused.etag is not None and refused.saw_etag == refused.etag


def _shown_by(history: KeyHistory) -> dict[Value, int]:
    """Return by when eventual reads have shown each value that one strong write only can have left."""
    shown: dict[Value, int] = {}
    if history.has_lost_sums:  # then nobody knows who else may have left a number
        return shown
    for operation in history.operations:
        value = operation.saw
        if (
            operation.is_read
            and not operation.is_strong
            and operation.is_ok
            and len(history.writers.get(value, ())) == 1
        ):
            shown[value] = min(shown.get(value, NEVER_NS), returned_ns(operation))
    shown.pop(ABSENT, None)
    return shown
