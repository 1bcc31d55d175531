"""Anti-entropy, put together: how differences between replicas are found and mended that nobody remembers.

Decides: nothing; it builds the parts, and hands on what happens to the node.  See `anti_entropy` for when replicas are
compared, `mending` for what they send each other, `trees` for what they compare, `pace` for how fast.  The other things
that heal are elsewhere: what is remembered in `handoff`, what reads meet in `commits`, what was left undecided or was
deleted in `upkeep`.
"""

from __future__ import annotations

from typing import Any

from kvnode.config import Config
from kvnode.runtime import Runtime
from kvnode.service.exchange import Exchanges
from kvnode.service.healing.anti_entropy import AntiEntropy
from kvnode.service.healing.jobs import Jobs
from kvnode.service.healing.mending import Mending
from kvnode.service.healing.trees import Trees
from kvnode.service.pace import Pace
from kvnode.service.placement import Placements
from kvnode.service.registers import Registers
from kvnode.service.replica import Replica
from kvnode.storage.engine import Engine


class Healing:
    """The parts of anti-entropy of one node."""

    def __init__(
        self,
        config: Config,
        home: int,
        placements: Placements,
        registers: Registers,
        replica: Replica,
        exchanges: Exchanges,
        engine: Engine,
        pace: Pace,
        runtime: Runtime,
        epoch: int,
    ) -> None:
        self.pace = pace
        self._replica = replica
        self._has_missed = False
        replica.on_missed = self.on_missed
        self.trees = Trees(config, home, placements, registers, engine, pace)
        registers.on_change = self.trees.on_change
        self.jobs = Jobs(exchanges, runtime)
        self.mending = Mending(self.trees, replica, registers, placements, self.jobs, pace, runtime, epoch)
        names = [node.id for node in config.nodes]
        self.anti_entropy = AntiEntropy(
            names,
            home,
            exchanges,
            placements,
            self.trees,
            self.mending,
            self.jobs,
            runtime.clock,
            config.limits,
            epoch,
        )

    def handlers(self) -> dict[int, Any]:
        """Return the handler of each message kind that another node's comparison sends."""
        return self.mending.handlers()

    def start(self) -> None:
        """Build the trees and begin to compare."""
        self.anti_entropy.start()

    def on_peer_up(self, index: int) -> None:
        """A node can be reached (again)."""
        self.anti_entropy.on_peer_up(index)

    def on_missed(self) -> None:
        """There was no room here for something that nobody owes this node, such as what it coordinated itself: get it
        once there is."""
        self._has_missed = True

    def sweep(self, now_s: float) -> None:
        """Begin what is due, and look at the latency of clients."""
        if self._has_missed and not self._replica.is_clogged:
            self._has_missed = False
            self.anti_entropy.catch_up()
        self.pace.sweep(now_s)
        self.jobs.sweep(now_s)
        self.anti_entropy.sweep(now_s)

    def stop(self) -> None:
        """Go on with nothing any more."""
        self.jobs.stop()

    def facts(self) -> dict[str, Any]:
        """Return what STATUS shows."""
        return {"repair_budget": self.pace.facts(), "anti_entropy": self.anti_entropy.facts()}
