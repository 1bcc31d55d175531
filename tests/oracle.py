"""A world of `world` whose disks the oracle of `simulation.oracle` watches."""

from __future__ import annotations

from typing import Any

from simulation.oracle import Oracle
from world import World, _Host

from kvnode.core.record import EMPTY_IMAGE, Image


class WatchedWorld(World):
    """A world whose disks an oracle watches."""

    def __init__(self, nodes: int, seed: int, **options: Any) -> None:
        self.oracle = Oracle(options["store"].q2)
        super().__init__(nodes, seed, **options)

    def _start(self, index: int, *arguments: Any, **options: Any) -> _Host:
        host = super()._start(index, *arguments, **options)
        put = host.engine.put

        def watched(key: bytes, image: Image, *, sync: bool, then: Any) -> None:
            def durable() -> None:
                self.oracle.on_durable(index, key, image, is_synced=sync)
                if then is not None:
                    then()

            put(key, image, sync=sync, then=durable)

        remove = host.engine.remove

        def watched_removal(key: bytes, *, sync: bool, then: Any) -> None:
            def durable() -> None:
                self.oracle.on_durable(index, key, EMPTY_IMAGE, is_synced=sync)
                if then is not None:
                    then()

            remove(key, sync=sync, then=durable)

        host.engine.put = watched  # type: ignore[method-assign]
        host.engine.remove = watched_removal  # type: ignore[method-assign]
        return host

    def micro(self) -> bool:
        """Do one thing of all that could happen now; False if nothing can."""
        if self.rng.random() < 0.5:
            return self.scheduler.turn() or self._deliver_any()
        return self._deliver_any() or self.scheduler.turn()
