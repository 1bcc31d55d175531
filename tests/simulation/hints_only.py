"""Runs in which nobody compares replicas, so that hints alone must heal: a hint that was lost shows.

Decides: how comparisons are kept from beginning, and when hints are excused.  Leaves to others: what healed means
(`rest`).

A hint is excused where the product promises none (`service.recent`, `service.handoff`): what a process had sent and
nobody had vouched for ends with that process; a node that stays out keeps what it owes, and one without room for what
it coordinates owes itself nothing; a disk that takes longer than a second may lose what was vouched for; and at its
bounds a ledger drops what it must.
"""

from __future__ import annotations

from typing import Final

from checkers.history import Operation
from simulation.scenario import Scenario
from simulation.world import SimHost, SimWorld

UNVOUCHED_S: Final = 3.0
"""How long after an operation something of it may not be vouched for, beyond the silence that ends a link: a
generation, a heartbeat, a second for the disk."""
_SLOW_DISKS: Final = ("slow disk", "held disk")


def stop_comparing(host: SimHost) -> None:
    """Keep the process that was just started on a host from beginning comparisons."""
    host.node.healing.anti_entropy.sweep = lambda now_s: None  # type: ignore[method-assign]
    on_missed = host.node.handoff.on_missed

    def missed() -> None:
        host.has_missed = True
        on_missed()

    host.node.handoff.on_missed = host.node.replica.on_missed = missed


def compare_again(world: SimWorld) -> None:
    """Let every process compare."""
    for host in world.hosts:
        if host.is_up:
            vars(host.node.healing.anti_entropy).pop("sweep", None)


def excuse(world: SimWorld, scenario: Scenario, operations: list[Operation]) -> str:
    """Return why hints may not have healed everything; empty if they must."""
    ends_s = [(at_s, host.name) for host in world.hosts for at_s in host.ends_s]
    if ends_s and any(fault.kind in _SLOW_DISKS for fault in scenario.faults):
        return "a process ended, and a disk was slow"
    longest_s = max((act.timeout_ms / 1000 for acts in scenario.clients for act in acts), default=0.0)
    after_s = longest_s + UNVOUCHED_S + world.config.limits.link_silence_s
    for operation in operations:
        if operation.is_read and operation.is_strong is False:
            continue
        begun_s = operation.call_ns / 1e9
        ended_s = max(begun_s, (operation.return_ns or operation.call_ns) / 1e9)
        for at_s, name in ends_s:
            if begun_s <= at_s <= ended_s + after_s:
                return f"the process of {name} ended {at_s - begun_s:.1f} s after operation {operation.index} began"
    for host in world.hosts:
        if host.has_missed:
            return f"{host.name} had no room for what it coordinated, and would have compared"
        if not host.is_serving:
            return f"{host.name} stays out, with what it owes"
        dropped = host.node.handoff.facts()["hints_dropped"]
        if any(dropped.values()):
            return f"{host.name} has dropped hints: {dropped}"
    return ""
