"""What counts as an outage where one of three nodes is cut off."""

from __future__ import annotations

import pytest

from scripts.havoc.perseus import KINDS, OUTAGE_S, Measurement, Success

NODES = ["n1", "n2", "n3"]


def measured(silent: tuple[str, str] | None = None) -> Measurement:
    """Return a measurement in which all succeeded ten times a second, but for one kind of operation at one node, which
    did not while n1 was cut off."""
    successes = [
        Success(tenth / 10, node, kind)
        for tenth in range(160)
        for node in NODES
        for kind in KINDS
        if (node, kind) != silent or not 40 <= tenth < 120
    ]
    return Measurement(NODES, "n1", 4.0, 12.0, 16.0, successes)


def test_where_all_went_on_there_was_no_outage() -> None:
    assert measured().longest_s() < OUTAGE_S


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_of_operation_that_stops_at_one_node_is_an_outage_though_all_else_goes_on(kind: str) -> None:
    assert measured(("n2", kind)).longest_s() == pytest.approx(8.0, abs=0.2)
    assert measured(("n2", kind)).outage_s(4.0, 12.0) < OUTAGE_S


def test_what_stops_at_the_node_that_is_cut_off_is_none() -> None:
    assert measured(("n1", "write")).longest_s() < OUTAGE_S
