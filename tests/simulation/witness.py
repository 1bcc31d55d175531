"""Tells the oracle of every promise and acknowledgement that leaves an acceptor (R9-R11), and of every eventual write
that reaches one: disks do not show them all.

Decides: nothing; it stands between a node's dispatch and its replica, and passes everything on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulation.oracle import Oracle
from simulation.world import SimHost

from kvclient.wire import messages as m
from kvclient.wire.values import NO_BALLOT
from kvnode.core.record import Record


class _WitnessedLink:
    """The link that a request came on: `on_yes` is called when an answer of kind `yes` leaves on it."""

    __slots__ = ("_link", "_on_yes", "_yes")

    def __init__(self, link: Any, yes: int, on_yes: Callable[[Any], None]) -> None:
        self._link, self._yes, self._on_yes = link, yes, on_yes

    def send(self, message: Any) -> bool:
        """Tell of the answer, and let it leave."""
        if message[0] == self._yes:
            self._on_yes(message)
        return bool(self._link.send(message))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


def witness(host: SimHost, oracle: Oracle) -> None:
    """See what the process that was just started on a host promises and acknowledges."""
    if not host.is_up:
        return
    table, replica = host.node._table, host.index
    oracle.on_start(replica, host.node.ceilings.restart_promise, host.node.registers.floors)
    prepare, accept, store, remove = table[m.PREPARE], table[m.ACCEPT], table[m.ENTRY], table[m.REMOVE]

    def on_prepare(link: Any, message: Any) -> None:
        key, ballot = message[3], message[4]
        prepare(_WitnessedLink(link, m.PROMISE, lambda answer: oracle.on_promised(replica, key, ballot)), message)

    def on_accept(link: Any, message: Any) -> None:
        key, ballot, body, window, following = message[3], message[4], message[5], message[6], message[8]

        def on_yes(answer: Any) -> None:
            oracle.on_accepted(replica, key, ballot, Record(body, window))
            oracle.on_promised(replica, key, following)

        accept(_WitnessedLink(link, m.ACCEPTED, on_yes), message)

    def on_entry(link: Any, message: Any) -> None:
        oracle.on_entry(message[3], message[4])
        store(link, message)

    def on_remove(link: Any, message: Any) -> None:
        key = message[3]
        promised, floors = oracle.promised(replica, key), host.node.registers.floors

        def on_yes(answer: Any) -> None:
            if answer[2] == m.PURGE_DONE:
                oracle.on_removed(replica, key, promised, floors.get(key[:2], NO_BALLOT))

        remove(_WitnessedLink(link, m.PURGED, on_yes), message)

    table[m.PREPARE], table[m.ACCEPT], table[m.ENTRY] = on_prepare, on_accept, on_entry
    table[m.REMOVE] = on_remove
