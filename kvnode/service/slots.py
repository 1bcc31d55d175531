"""One key with operations: those that wait, and the round that runs, as replies see it.

Decides: which reply means what to the running round, and that refusals which come in after a round has failed still
count for clearing its operations of doubt (R21).  Leaves to others: when a round begins and what follows it
(`consensus`), and every rule of a round (`core.proposer`).
"""

from __future__ import annotations

from typing import Protocol

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import BALLOT_BYTES, BODY_HEADER_BYTES, NO_BALLOT, Ballot
from kvnode.core.operation import Operation
from kvnode.core.proposer import Round, Step
from kvnode.service.placement import Placement
from kvnode.service.states import promise_of


class Rounds(Protocol):
    """Whoever runs the rounds of all slots."""

    def now_ms(self) -> int:
        """Return the wall clock."""

    def obey(self, slot: Slot, step: Step) -> None:
        """Do what a slot's round asks for."""


class Slot:
    """A key with operations: those that wait, and the round or read that runs."""

    __slots__ = (
        "attempts",
        "complaint",
        "consensus",
        "failed",
        "key",
        "number",
        "placement",
        "reached",
        "refusers",
        "round",
        "seen",
        "since_s",
        "waiting",
    )

    def __init__(self, consensus: Rounds, key: bytes, placement: Placement) -> None:
        self.consensus = consensus
        self.key = key
        self.placement = placement
        self.waiting: list[Operation] = []
        self.round: Round | None = None
        self.number = 0
        self.failed: Round | None = None
        """The round before, while its late refusals may still clear its operations of doubt (R21)."""
        self.reached = placement.members
        """Acceptors that were sent the round's record, as bits."""
        self.complaint = ""
        """Code with which a replica refused to take part in the round, if one did."""
        self.refusers = 0
        """Those that did, as bits."""
        self.attempts = 0
        self.seen: Ballot = NO_BALLOT
        self.since_s = 0.0

    def on_reply(self, index: int, message: Message) -> None:
        """Feed a replica's reply to the round."""
        round_ = self.round
        kind = message[0]
        if round_ is None:
            if self.failed is not None and kind != m.ACCEPTED:
                self.failed.on_refused(index)
            return
        if kind == m.ACCEPTED:
            if 0 < len(message[2]) <= BODY_HEADER_BYTES:
                raise m.MessageError(f"an overlay entry of {len(message[2])} bytes")
            step = round_.on_accepted(index, message[2])
        elif kind == m.PROMISE:
            step = round_.on_promise(index, promise_of(message), self.consensus.now_ms())
        elif kind == m.NACK:
            if len(message[2]) != BALLOT_BYTES:
                raise m.MessageError(f"a ballot of {len(message[2])} bytes")
            step = round_.on_nack(index, message[2])
        else:
            if kind == m.REFUSED:
                self.complaint = message[2]
                self.refusers |= 1 << index
            step = round_.on_refused(index)
        if step is not Step.WAIT:
            self.consensus.obey(self, step)

    def on_lost(self, index: int) -> None:
        """Tell the round that a replica's answer will not come."""
        if self.round is not None:
            step = self.round.on_lost(index)
            if step is not Step.WAIT:
                self.consensus.obey(self, step)
