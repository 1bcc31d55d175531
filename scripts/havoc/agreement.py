"""Whether all replicas come to hold the same by themselves: asked of each of them, key by key, without any read.

Decides: what counts as the same, and how long healing may take.  Leaves to others: when to ask (`run`), and what a
disagreement means (`verdict`).

EXPLAIN gathers the whole state of a key from every owner.  It repairs nothing, as a read of several replicas would
(R20, R31): so what it shows was brought there by the writes themselves, by hints, by comparisons, or by the resolver.
Two replicas hold the same if a comparison of their hash trees would find nothing to exchange (`core.merkle`): the
version of what is committed, but for a settled tombstone, which is as good as nothing (R38), and that of the overlay.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from kvclient import Kv, KvError
from kvnode.cli import probe
from kvnode.cli.probe import ProbeError

REPAIR_INTERVAL_S: Final = 5.0
"""How often the nodes of a chaos cluster compare their trees; ten minutes would be too seldom to see it here."""
HEAL_S: Final = 30.0
"""Within which all replicas must hold the same: twice what hand-off and comparison need.  A node is dialled again
within 2 s and its hints arrive within 3 more; the next comparison begins within 5 s, and takes up to 5 on a busy
machine."""
RESOLVER_S: Final = 60.0
"""After how long at the most a node that could not settle a proposal tries again, as one that is ahead cannot."""
POLL_S: Final = 0.25
ASK_TIMEOUT_S: Final = 5.0
_IN_FLIGHT: Final = 32


class Held(NamedTuple):
    """What one replica holds of a key."""

    node: str
    versions: tuple[str, str]
    """Committed, unless it is a settled tombstone, and overlay; nothing for what is not there."""
    words: str

    def __str__(self) -> str:
        return f"{self.node} holds {self.words}"


class State(NamedTuple):
    """What all replicas hold of a key."""

    key: str
    replicas: tuple[Held, ...]
    error: str = ""
    """Why nobody knows: some replica did not answer."""

    @property
    def is_agreed(self) -> bool:
        """True if every replica has answered and holds the same."""
        return not self.error and len({held.versions for held in self.replicas}) == 1

    def __str__(self) -> str:
        return "; ".join([*map(str, self.replicas), *([self.error] if self.error else [])])


class Healed(NamedTuple):
    """What became of some keys."""

    keys: int
    after_s: float | None
    """When all their replicas held the same; None: never."""
    differing: Sequence[State] = ()
    unpaid: Sequence[str] = ()
    """What nodes still owed or had not decided."""

    @property
    def after(self) -> str:
        """When they held the same, in words."""
        if not self.keys:
            return "-"
        return f"{len(self.differing)} do not" if self.after_s is None else f"{self.after_s:.1f} s"


def state_of(facts: dict[str, Any]) -> State:
    """Return what EXPLAIN said of a key."""
    held = [_held(replica) for replica in facts["replicas"] if "error" not in replica]
    silent = [f"{replica['node']}: {replica['error']}" for replica in facts["replicas"] if "error" in replica]
    return State(facts["key"], tuple(held), ", ".join(silent))


def _held(replica: dict[str, Any]) -> Held:
    committed, overlay, accepted = (replica[part] for part in ("committed", "overlay", "accepted"))
    words = []
    if committed:
        words.append(f"{committed['value']} ({'settled, ' if replica['settled'] else ''}{committed['version']})")
    if overlay:
        words.append(f"in its overlay {overlay['value']} ({overlay['version']})")
    if accepted:
        words.append(f"undecided {accepted['value']} ({accepted['version']})")
    versions = (
        "" if replica["settled"] or not committed else committed["version"],
        overlay["version"] if overlay else "",
    )
    return Held(replica["node"], versions, ", ".join(words) or "nothing")


def unpaid_of(statuses: Iterable[dict[str, Any] | ProbeError]) -> list[str]:
    """Return which nodes owe hints, hold proposals that nobody has decided, or do not say."""
    found = []
    for facts in statuses:
        if isinstance(facts, ProbeError):
            found.append(str(facts))
            continue
        found += [f"{facts['node']} owes {count} hints to {to}" for to, count in facts["hints_owed"].items()]
        if undecided := facts["proposals"]["undecided"]:
            found.append(f"{facts['node']} has {undecided} undecided proposals")
    return found


async def differing(kv: Kv, keys: Iterable[str]) -> list[State]:
    """Ask every replica of some keys; return those keys of which not all replicas hold the same."""
    limit = asyncio.Semaphore(_IN_FLIGHT)

    async def one(key: str) -> State:
        async with limit:
            try:
                return state_of(await kv.explain(key, timeout=ASK_TIMEOUT_S))
            except KvError as error:
                return State(key, (), str(error))

    return [state for state in await asyncio.gather(*map(one, keys)) if not state.is_agreed]


async def until_agreed(kv: Kv, keys: Sequence[str], within_s: float, nodes: Sequence[tuple[str, int]] = ()) -> Healed:
    """Ask until the replicas of all these keys hold the same, or `within_s` are over.

    With `nodes`, their addresses, nothing may be owed or undecided there either; then all keys are asked once more,
    for what was decided last.
    """
    began_s = time.monotonic()
    left = list(keys)
    while True:
        unpaid = unpaid_of(await probe.statuses(nodes))
        states = await differing(kv, left)
        after_s = time.monotonic() - began_s
        if not states and not unpaid:
            if not nodes or len(left) == len(keys):
                return Healed(len(keys), after_s)
            left = list(keys)
        elif after_s >= within_s:
            return Healed(len(keys), None, states, unpaid)
        else:
            left = [state.key for state in states]
            await asyncio.sleep(POLL_S)
