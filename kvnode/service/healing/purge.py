"""Purge, the coordinator's side: what was deleted, or has expired, goes from all replicas in the three steps of R35.

Decides: which keys are due, in which order the steps are asked for, and when a key is tried again.  Leaves to others:
every rule (`core.register`), the replicas' part (`tombstones`), the identity rounds (`consensus`), and what all of it
may cost (the repair budget, `take`).

Only a key's primary begins.  It is a matter of load: two that do the same for one key outbid each other, and the steps
of the one that has lost find another ballot.  Nothing is remembered from step to step but what the replicas hold
themselves, so a restart, here or there, costs some messages and no safety:

    round    an identity round of the tombstone, accepted by all N at one ballot g               (step 1)
    ANCHOR   all N have committed g; each tells for how long                                      (step 1)
    SETTLE   once the last of them has for gc_grace: all N mark it settled                        (step 2)
    REMOVE   all others, then this node: it is the last that could still ask for what is left     (step 3)

A tombstone that a retry may still ask about (R23) waits until a round may drop that.  Bounds: `purge_keys_max` keys
are remembered, `_WALKS_MAX` are worked on; what is beyond that is found by the scan of all rows.  Whenever one of them
is done the next begins, so the pace is what the repair budget allows and what the replicas' disks and links can do.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import Ballot, body_content, body_times
from kvnode.config import Limits
from kvnode.core.operation import ANCHOR, SETTLE, Result
from kvnode.core.record import Image
from kvnode.core.register import visible_body
from kvnode.core.window import Window
from kvnode.runtime import Runtime
from kvnode.service.consensus import Consensus
from kvnode.service.exchange import Exchanges
from kvnode.service.placement import Placement, Placements
from kvnode.service.registers import Registers, is_mortal

_QUIET_S = 1.0
"""How long a deleted key is left alone at first: some are written again at once."""
_RETRY_S = 10.0
"""Until a key is looked at again of which something stood in the way."""
_ANSWER_S = 5.0
"""How long the answers to one step are waited for."""
_WALKS_MAX = 64
"""Rounds and walks that run at the same time: what one turn of the loop may have to do for a purge."""
_NOTICED_MAX = 512
"""Keys taken up in one sweep: a millisecond."""
_LOOKED_AT_MAX = 256
"""Keys looked at in one turn: of some a replica is missing, or there is nothing to do."""
_STEP_BYTES = 600
"""What the steps of one key are reckoned to cost."""


class _Walk:
    """One key on its way through the steps."""

    __slots__ = ("age_ms", "asked", "ballot", "deadline_s", "key", "kind", "number", "placement", "purge")

    def __init__(self, purge: Purge, key: bytes, placement: Placement, ballot: Ballot) -> None:
        self.purge = purge
        self.key = key
        self.placement = placement
        self.ballot = ballot
        self.kind = 0
        self.number = 0
        self.asked = 0
        """Owners whose answer is missing, as bits."""
        self.age_ms = 0
        self.deadline_s = 0.0

    def on_reply(self, index: int, message: Message) -> None:
        if not self.asked >> index & 1:
            return
        if message[0] != m.PURGED:
            self.purge.on_blocked(self, index)
            return
        _, _, answer, age_ms = message
        if answer == m.PURGE_DONE or (answer == m.PURGE_GONE and self.purge.may_be_gone(self)):
            self.asked &= ~(1 << index)
            if answer == m.PURGE_DONE:
                self.age_ms = min(self.age_ms, age_ms)
            if not self.asked:
                self.purge.on_step_done(self)
        else:
            if answer == m.PURGE_OTHER:
                self.purge.on_overtaken(self)
            self.purge.on_blocked(self, index)

    def on_lost(self, index: int) -> None:
        if self.asked >> index & 1:
            self.purge.on_blocked(self, index)


class Purge:
    """The keys of this primary that are to go."""

    def __init__(
        self,
        names: list[str],
        home: int,
        exchanges: Exchanges,
        registers: Registers,
        consensus: Consensus,
        placements: Placements,
        runtime: Runtime,
        limits: Limits,
        epoch: int,
        take: Callable[[int], bool],
        settle_after_ms: Callable[[bytes], int],
    ) -> None:
        """`take` asks the repair budget for bytes; False: not now.  `settle_after_ms` is that of
        `Tombstones`."""
        self._names = names
        self._home = home
        self._home_bit = 1 << home
        self._exchanges = exchanges
        self._registers = registers
        self._consensus = consensus
        self._placements = placements
        self._runtime = runtime
        self._keys_max = limits.purge_keys_max
        self._scan_ms = limits.scan_pause_s * 1000
        self._epoch = epoch
        self.take = take
        self._settle_after_ms = settle_after_ms
        self._noticed: dict[bytes, None] = {}
        self._known: set[bytes] = set()
        """Keys that wait for their time or are on their way."""
        self._due: list[tuple[float, bytes]] = []
        self._walks: dict[bytes, _Walk] = {}
        self._rounds = 0
        self._is_armed = False
        self._overtaken: set[bytes] = set()
        """Keys of which a replica has something else, perhaps of the same version: hash trees do not show that."""
        self._blocked: dict[bytes, int] = {}
        """Keys that wait for one replica, and for which, until they go on."""
        self.purged = 0
        self.overflowed = 0

    # -- what becomes known

    def on_mortal(self, key: bytes) -> None:
        """Note a key that was deleted, or that will expire; called for every such write, so it does no more."""
        if len(self._known) + len(self._noticed) < self._keys_max:
            self._noticed[key] = None
        else:
            self.overflowed += 1

    @property
    def has_room(self) -> bool:
        """True while the scan may bring more."""
        return len(self._known) + len(self._noticed) < self._keys_max

    def on_row(self, key: bytes, image: Image) -> None:
        """Take a row that the scan has met."""
        body = visible_body(image)
        if key not in self._known and body and is_mortal(body):
            self._noticed[key] = None

    def sweep(self, now_s: float) -> None:
        """Take up what was noticed, begin what is due, and give up what is not answered."""
        for _ in range(min(len(self._noticed), _NOTICED_MAX)):
            key = self._noticed.popitem()[0]
            if key not in self._known and self._placements.of(key[2:]).owners[0] == self._home:
                self._known.add(key)
                self._wait(key, now_s + _QUIET_S)
        self._go_on(now_s)
        for walk in [walk for walk in self._walks.values() if walk.deadline_s < now_s]:
            self.on_blocked(walk, (walk.asked & -walk.asked).bit_length() - 1)

    def _on_free(self) -> None:
        """One of those that are worked on is done: begin the next, in a turn of its own, for another may be done in
        this one."""
        if not self._is_armed and self._due:
            self._is_armed = True
            self._runtime.timers.call_soon(self._begin_next)

    def _begin_next(self) -> None:
        self._is_armed = False
        self._go_on(self._runtime.clock.monotonic_s())

    def _go_on(self, now_s: float) -> None:
        """Begin what is due, as far as there is room and the repair budget allows."""
        due = self._due
        for _ in range(_LOOKED_AT_MAX):
            if not due or due[0][0] > now_s or len(self._walks) + self._rounds >= _WALKS_MAX:
                break
            key = due[0][1]
            placement = self._placements.of(key[2:])
            missing = self._missing(placement)
            if missing < 0 and not self.take(_STEP_BYTES):
                break
            heapq.heappop(due)
            if missing < 0:
                self._begin(key, placement)
            else:
                self._blocked[key] = missing
                self._retry(key)

    def _missing(self, placement: Placement) -> int:
        """Return an owner that cannot be reached or is under suspicion, or -1: without all N nothing of a purge can be
        done (R35).  A round that waits for a silent one would hold the key, and whoever writes it, for nothing."""
        missing = placement.members & (~self._exchanges.up | self._exchanges.suspected)
        return (missing & -missing).bit_length() - 1

    def _wait(self, key: bytes, due_s: float) -> None:
        heapq.heappush(self._due, (due_s, key))

    def _wait_ms(self, key: bytes, wait_ms: int) -> None:
        """Come back to a key, or leave it to the next scan if that is soon enough."""
        self._blocked.pop(key, None)
        if wait_ms > self._scan_ms:
            self._forget(key)
            return
        now_s = self._runtime.clock.monotonic_s()
        self._wait(key, now_s + max(0.05, wait_ms / 1000) + 0.1 * self._runtime.rng.random())

    def _retry(self, key: bytes) -> None:
        """Come back to a key some time later; when there are many such keys the next scan will."""
        if len(self._known) > self._keys_max // 2:
            self._forget(key)
            return
        self._wait(key, self._runtime.clock.monotonic_s() + _RETRY_S * (0.75 + 0.5 * self._runtime.rng.random()))

    def _forget(self, key: bytes) -> None:
        self._known.discard(key)
        self._overtaken.discard(key)
        self._blocked.pop(key, None)

    # -- what a key needs

    def _begin(self, key: bytes, placement: Placement) -> None:
        """Look at a key whose time has come, and begin what it needs."""
        image = self._registers.known(key)
        body = visible_body(image)
        now_ms = self._runtime.clock.wall_ms()
        if not body:
            self._forget(key)
        elif image.accepted_ballot:
            self._blocked.pop(key, None)
            self._retry(key)  # the resolver, or whoever proposed it, decides it first
        elif image.settled and not image.overlay and key not in self._overtaken:
            self._step(_Walk(self, key, placement, image.committed_ballot), m.SETTLE, placement.members)
        elif body_content(body):
            self._await_expiry(key, placement, body_times(body)[0], now_ms)
        elif image.overlay:
            self._run_round(key, placement, SETTLE)  # an eventual delete: it is folded first
        else:
            self._await_grace(key, placement, image, now_ms)

    def _await_expiry(self, key: bytes, placement: Placement, expires_ms: int, now_ms: int) -> None:
        """Let a round make a tombstone of what has expired (R63)."""
        if not expires_ms:
            self._forget(key)
        elif expires_ms <= now_ms:
            self._run_round(key, placement, SETTLE)
        else:
            self._wait_ms(key, expires_ms - now_ms)

    def _await_grace(self, key: bytes, placement: Placement, image: Image, now_ms: int) -> None:
        ends_ms = Window.decode(image.committed.window).ends_ms
        if ends_ms > now_ms:
            self._wait_ms(key, ends_ms - now_ms)
        elif not image.anchored_ms or key in self._overtaken:
            self._overtaken.discard(key)
            self._run_round(key, placement, ANCHOR)
        elif now_ms - image.anchored_ms < self._settle_after_ms(key[2:]):
            self._wait_ms(key, image.anchored_ms + self._settle_after_ms(key[2:]) - now_ms)
        else:
            self._step(_Walk(self, key, placement, image.committed_ballot), m.ANCHOR, placement.members)

    def _run_round(self, key: bytes, placement: Placement, identity: int) -> None:
        self._rounds += 1
        if not self._consensus.settle(key, placement, identity, partial(self._on_round, key, placement)):
            self._rounds -= 1
            self._retry(key)

    def _on_round(self, key: bytes, placement: Placement, result: Result) -> None:
        self._rounds -= 1
        self._on_free()
        if result.anchor:
            self._blocked.pop(key, None)
            self._step(_Walk(self, key, placement, result.anchor), m.ANCHOR, placement.members)
        elif result.code:
            self._retry(key)
        else:
            self._wait_ms(key, 200)

    # -- the steps

    def _step(self, walk: _Walk, kind: int, asked: int) -> None:
        """Ask `asked` (bits) for one step; all of them must do it."""
        walk.kind, walk.asked = kind, asked
        walk.age_ms = 1 << 62
        walk.deadline_s = self._runtime.clock.monotonic_s() + _ANSWER_S
        walk.number = number = self._exchanges.begin(walk)
        self._walks[walk.key] = walk
        owners = tuple(index for index in walk.placement.owners if asked >> index & 1)
        reached = self._exchanges.send(owners, (kind, number, self._epoch, walk.key, walk.ballot))
        for index in owners:
            if not reached >> index & 1 and walk.number == number and walk.key in self._walks:
                self.on_blocked(walk, index)

    def may_be_gone(self, walk: _Walk) -> bool:
        """Return whether a replica without the tombstone has removed it in step 3 of a walk before this one: then all
        N had settled it, this node among them."""
        if walk.kind == m.ANCHOR:
            return False
        image = self._registers.get(walk.key).image
        return image.settled and image.committed_ballot == walk.ballot

    def on_step_done(self, walk: _Walk) -> None:
        """All that were asked have done it."""
        self._end(walk)
        self._blocked.pop(walk.key, None)
        if walk.kind == m.ANCHOR:
            missing_ms = self._settle_after_ms(walk.key[2:]) - walk.age_ms
            if missing_ms > 0:
                self._wait_ms(walk.key, missing_ms)
            else:
                self._step(walk, m.SETTLE, walk.placement.members)
        elif walk.kind == m.SETTLE:
            self._step(walk, m.REMOVE, walk.placement.members & ~self._home_bit or self._home_bit)
        elif walk.placement.members != self._home_bit and self._has_row(walk):
            self._step(walk, m.REMOVE, self._home_bit)
        else:
            self.purged += 1
            self._forget(walk.key)

    def _has_row(self, walk: _Walk) -> bool:
        return self._registers.get(walk.key).image.committed_ballot == walk.ballot

    def on_overtaken(self, walk: _Walk) -> None:
        """A replica holds something else than the tombstone: a round of all N brings them together, and begins anew."""
        self._overtaken.add(walk.key)

    def on_blocked(self, walk: _Walk, index: int) -> None:
        """A replica could not do its step, or has not answered; look at the key again later."""
        self._end(walk)
        self._blocked[walk.key] = index
        self._retry(walk.key)

    def _end(self, walk: _Walk) -> None:
        self._exchanges.end(walk.number)
        self._walks.pop(walk.key, None)
        self._on_free()

    def facts(self) -> dict[str, Any]:
        """Return what STATUS shows of it."""
        waits_for: dict[str, int] = {}
        for index in self._blocked.values():
            name = self._names[index]
            waits_for[name] = waits_for.get(name, 0) + 1
        return {
            "waiting": len(self._known) + len(self._noticed),
            "purged": self.purged,
            "blocked": len(self._blocked),
            "waits_for": waits_for,
            "overflowed": self.overflowed,
        }
