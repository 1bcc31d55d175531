"""Tells the oracle of every promise that leaves an acceptor, which no disk need hold (R9, R11).

Decides: nothing; it stands between a node's dispatch and its replica, and passes everything on.
"""

from __future__ import annotations

from typing import Any

from simulation.oracle import Oracle
from simulation.world import SimHost

from kvclient.wire import messages as m
from kvclient.wire.values import Ballot


class _WitnessedLink:
    """The link that a request came on; what is sent on it in answer is seen."""

    __slots__ = ("_key", "_link", "_oracle", "_promise", "_replica", "_wanted")

    def __init__(self, link: Any, oracle: Oracle, replica: int, key: bytes, promise: Ballot, wanted: int) -> None:
        self._link, self._oracle, self._replica = link, oracle, replica
        self._key, self._promise, self._wanted = key, promise, wanted

    def send(self, message: Any) -> bool:
        """Tell of the promise that this answer makes, and let it leave."""
        if message[0] == self._wanted:
            self._oracle.on_promised(self._replica, self._key, self._promise)
        return bool(self._link.send(message))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


def witness(host: SimHost, oracle: Oracle) -> None:
    """See the promises of the process that was just started on a host."""
    if not host.is_up:
        return
    table = host.node._table
    prepare, accept, index = table[m.PREPARE], table[m.ACCEPT], host.index

    def on_prepare(link: Any, message: Any) -> None:
        prepare(_WitnessedLink(link, oracle, index, message[3], message[4], m.PROMISE), message)

    def on_accept(link: Any, message: Any) -> None:
        accept(_WitnessedLink(link, oracle, index, message[3], message[8], m.ACCEPTED), message)

    table[m.PREPARE], table[m.ACCEPT] = on_prepare, on_accept
