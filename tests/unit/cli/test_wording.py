"""On a command line, errors name its options."""

from __future__ import annotations

import pytest

from kvclient.errors import InvalidRequest, KvError, OutcomeUnknown
from kvclient.options import Options, StoreSettings, WritePlan, check_of, plan_read, plan_write, ttl_ms_of
from kvnode.cli import wording


def refusal(call: object) -> KvError:
    with pytest.raises(InvalidRequest) as refused:
        call()  # type: ignore[operator]
    return refused.value


PLAN = WritePlan(True, False, 1, 0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: check_of(PLAN, "x", True), "--create says that the key is absent, --etag that it is there"),
        (lambda: plan_read(StoreSettings(), Options(r=4)), "-r 4 must be 1 to 3"),
        (lambda: plan_write(StoreSettings(), Options(w=0)), "-w 0 must be 1 to 3"),
        (lambda: ttl_ms_of(-1), "--ttl -1 must be above 0 and at most 3153600000 seconds"),
    ],
)
def test_a_refused_argument_is_named_as_it_was_typed(call: object, said: str) -> None:
    assert said in wording.sentence_of(refusal(call))


def test_an_unknown_outcome_names_what_can_be_done_here() -> None:
    error = OutcomeUnknown("it may or may not take effect (why): ask again with its operation id", "id")
    assert "operation id" not in wording.sentence_of(error)
    assert "--consistency strong" in wording.sentence_of(error)
