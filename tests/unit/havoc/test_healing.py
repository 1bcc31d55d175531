"""What healed a cluster is added up over the restarts of its nodes."""

from __future__ import annotations

from typing import Any

from kvnode.cli.probe import ProbeError
from scripts.havoc.healing import Counts, Tally


def facts(node: str, incarnation: int, hints: int, repaired: int = 0, by_reads: int = 0) -> dict[str, Any]:
    return {
        "node": node,
        "incarnation": incarnation,
        "hints_delivered": hints,
        "anti_entropy": {"repaired": repaired},
        "repairs": repaired + by_reads,
        "proposals": {"settled": 0},
        "tombstones": {"purged": 0},
    }


def test_what_a_node_counted_before_a_restart_is_not_lost() -> None:
    tally = Tally([])
    assert tally.counts == Counts()
    tally.look([facts("n1", 1, 5, 3, 2), facts("n2", 1, 1)])
    before = tally.counts
    assert before == Counts(hints=6, comparisons=3, reads=2)
    tally.look([ProbeError("nobody listens"), facts("n2", 1, 4)])
    tally.look([facts("n1", 2, 1)])
    assert tally.counts.since(before) == Counts(hints=4)
