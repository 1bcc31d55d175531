"""Whether the keys of a store can be read and written with a quorum now, from what the nodes say about each other.

Decides: a partition has its quorum if some node that serves, and that this client can reach, is connected to enough of
the partition's owners (itself included), and suspects none of these.  That is what a coordinator needs (section 2 of
the protocol).  Leaves to others: asking the nodes (`Kv.health`).

Caveat: it is a picture of a moment.  A node that died less than a second ago may still count; an operation then finds
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kvclient.routing import Table

SERVING = "serving"
UP = "up"


class Health(NamedTuple):
    """The answer of `Kv.health`."""

    ok: bool
    """True if every partition has its quorum."""
    partitions: int
    without_quorum: int
    """Partitions in which some store asked for has no quorum."""
    nodes: Mapping[str, str]
    """The state of every node, by name: "serving", "joining", "draining" or "unreachable"."""
    reason: str
    """One sentence; "" if all is well."""


def judge(table: Table, stores: Sequence[str], facts: Mapping[str, Mapping[str, Any]]) -> Health:
    """Return the health of some stores, given what each node says about itself (`Kv.status`)."""
    nodes = {name: str(facts.get(name, {}).get("state", "unreachable")) for name in table.names}
    views = [_view(table, facts[name], index) for index, name in enumerate(table.names) if nodes[name] == SERVING]
    needs = {(settings.replicas, settings.quorum) for settings in map(table.settings, stores)}
    verdicts: dict[tuple[int, ...], bool] = {}
    without_quorum = 0
    for preference in table.preference:
        order = tuple(preference)
        if order not in verdicts:
            verdicts[order] = all(
                any(len(view.intersection(order[:replicas])) >= quorum for view in views) for replicas, quorum in needs
            )
        without_quorum += not verdicts[order]
    return Health(not without_quorum, table.partitions, without_quorum, nodes, _reason(table, nodes, without_quorum))


def _view(table: Table, facts: Mapping[str, Any], index: int) -> set[int]:
    """Return the numbers of the nodes that a node can work with, its own among them."""
    peers = facts.get("peers")
    if not isinstance(peers, dict):
        return {index}
    return {index} | {number for number, name in enumerate(table.names) if peers.get(name) == UP}


def _reason(table: Table, nodes: Mapping[str, str], without_quorum: int) -> str:
    if not without_quorum:
        return ""
    others = ", ".join(f"{name} is {state}" for name, state in nodes.items() if state != SERVING)
    because = others or "the nodes are not connected to each other"
    return f"{without_quorum} of {table.partitions} partitions have no quorum: {because}"
