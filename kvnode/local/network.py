"""The network of a cluster on this machine: a proxy for every ordered pair of nodes, and what hurts them.

Decides: which links are cut, slow or reset on request, and through which address each node reaches each other.  Leaves
to others: what that does to bytes (`proxy`), and who asks (`supervisor`).

Only links between nodes lead through proxies; clients reach every node directly, also one that is cut off.

A cut and a slowness are two things, each set as a whole: a new partition replaces the one before and leaves slow links
slow.  `heal` ends both.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import permutations
from types import TracebackType
from typing import Any

from kvnode.config import Config
from kvnode.local.partition import Pair
from kvnode.local.proxy import CLEAR, Condition, Link, Proxy
from kvnode.local.statefile import LocalError

NODES_MAX = 12
"""Every ordered pair has a listener and about four sockets: beyond this a process may run out of descriptors."""


class Network:
    """Every proxy of a cluster.  Enter it before the first node starts, leave it after the last one has gone."""

    def __init__(self, config: Config, seed: int | None = None) -> None:
        names = [node.id for node in config.nodes]
        if len(names) > NODES_MAX:
            raise LocalError(f"{len(names)} nodes are too many for --proxied: at most {NODES_MAX} can have proxies")
        rng = random.Random(seed)
        self.links = {pair: Link(*pair, rng) for pair in permutations(names, 2)}
        self._targets = {node.id: (node.host, node.port) for node in config.nodes}
        self._proxies: dict[Pair, Proxy] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Network:
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        for (source, target), link in self.links.items():
            proxy = Proxy(link, self.links[target, source], self._targets[target], tasks)
            self._proxies[source, target] = proxy
            await proxy.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for proxy in self._proxies.values():
            proxy.close()
        await self._stack.aclose()

    def variables(self, source: str) -> dict[str, str]:
        """Return the environment variable that tells node `source` where it reaches each other node."""
        from kvnode.process import PEERS_VARIABLE  # with the storage engine behind it: only if there is a network

        proxies = [(target, proxy) for (dialler, target), proxy in self._proxies.items() if dialler == source]
        return {PEERS_VARIABLE: ",".join(f"{target}={proxy.host}:{proxy.port}" for target, proxy in proxies)}

    @property
    def cuts(self) -> list[Pair]:
        """The links that are cut."""
        return [pair for pair, link in self.links.items() if link.condition.is_cut]

    def cut(self, pairs: Iterable[Pair]) -> None:
        """Cut exactly these links."""
        cut = self._known(pairs)
        for pair, link in self.links.items():
            link.set(replace(link.condition, is_cut=pair in cut))

    def slow(self, conditions: Mapping[Pair, Condition]) -> None:
        """Make exactly these links slow, each in its way; what is cut stays cut."""
        self._known(conditions)
        for pair, link in self.links.items():
            link.set(replace(conditions.get(pair, CLEAR), is_cut=link.condition.is_cut))

    def heal(self) -> None:
        """Let everything through at once."""
        for link in self.links.values():
            link.set(CLEAR)

    def reset(self, pairs: Iterable[Pair]) -> None:
        """Break the connections that were dialled along these links; both ends are told, and may dial again."""
        for pair in self._known(pairs):
            self._proxies[pair].reset()

    def answer(self, request: Mapping[str, Any]) -> None:
        """Do what a control request says.  Raises LocalError, or KeyError and its like if it makes no sense."""
        pairs = [(str(source), str(target)) for source, target, *_ in request.get("links", ())]
        match request["do"]:
            case "cut":
                self.cut(pairs)
            case "slow":
                facts = request["delay_ms"] / 1e3, request["jitter_ms"] / 1e3, int(request["bytes_per_s"])
                self.slow(dict.fromkeys(pairs, Condition(False, *facts)))
            case "reset":
                self.reset(pairs)
            case "heal":
                self.heal()

    def _known(self, pairs: Iterable[Pair]) -> set[Pair]:
        known = set(pairs)
        for pair in known - set(self.links):
            raise LocalError(f"there is no link from {pair[0]} to {pair[1]}")
        return known
