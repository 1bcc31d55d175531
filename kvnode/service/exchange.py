"""Exchanges between a coordinator and replicas: who waits for which reply, and over which links.

Decides: numbering, and that a reply reaches the exchange that asked, or nobody.  Leaves to others: what an exchange
does with a reply (`consensus`, `reads`, `eventual`), sockets (`kvnode.net`).

The coordinator's own replica is reached over `HomeLink`, which has the interface of a network link and no network: so
there is one path for all owners.  It delivers at once; send to it last, for its answer may arrive before `send`
returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from kvclient.wire.frames import Message


class Link(Protocol):
    """What the service needs of a connection."""

    index: int
    """The other node's index; -1 for a client."""
    requests: int
    """Requests of this link that are in flight; the coordinator counts them."""

    def send(self, message: Message) -> bool:
        """Queue a message; False if the link is closed or its outbox is full (nothing was sent)."""


class Exchange(Protocol):
    """Somebody who waits for replies.  Both methods may end the exchange."""

    def on_reply(self, index: int, message: Message) -> None:
        """Take a reply of node `index`."""

    def on_lost(self, index: int) -> None:
        """Take the loss of the link to node `index`: what was sent may or may not have arrived."""


class HomeLink:
    """The link of a node to its own replica."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.requests = 0
        self.deliver: Callable[[HomeLink, Message], None] = _nowhere

    def send(self, message: Message) -> bool:
        """Deliver the message at once."""
        self.deliver(self, message)
        return True


def _nowhere(link: HomeLink, message: Message) -> None:
    raise AssertionError(f"the home link was used before it was connected: {message!r:.80}")


class Exchanges:
    """The open exchanges of a coordinator and its links, by node index (None: that node is not reachable)."""

    def __init__(self, nodes: int) -> None:
        self.links: list[Link | None] = [None] * nodes
        self.up = 0
        """Nodes with an open link, as bits."""
        self.suspected = 0
        """Nodes that have been silent for longer than is usual, as bits: asked last."""
        self.busy = 0
        """Nodes that say that they are busier than the rest by far, as bits: asked later for what others can answer."""
        self.doubted = 0
        """Those, and nodes that have refused something of late: they may miss what they are sent."""
        self.losses = [0] * nodes
        """How often the link to each node was lost."""
        self.open: dict[int, Exchange] = {}
        self._number = 0

    def begin(self, exchange: Exchange) -> int:
        """Register an exchange and return its number, which every request of it carries."""
        self._number = number = self._number + 1
        self.open[number] = exchange
        return number

    def end(self, number: int) -> None:
        """Forget an exchange; later replies to it are dropped."""
        self.open.pop(number, None)

    def on_reply(self, link: Link, message: Message) -> None:
        """Hand a reply to its exchange."""
        exchange = self.open.get(message[1])
        if exchange is not None:
            exchange.on_reply(link.index, message)

    def send(self, owners: Iterable[int], message: Message) -> int:
        """Send `message` to the owners that can be reached, this node last; return them as bits."""
        links, reached, home = self.links, 0, None
        for index in owners:
            link = links[index]
            if link is None:
                continue
            if type(link) is HomeLink:
                home = link
            elif link.send(message):
                reached |= 1 << index
        if home is not None:
            reached |= 1 << home.index
            home.send(message)
        return reached

    def reachable(self, members: int) -> int:
        """Return how many of `members` (bits) have an open link."""
        return (self.up & members).bit_count()

    def trusted(self, owners: tuple[int, ...]) -> tuple[int, ...]:
        """Return those of `owners` that have a link and are not under suspicion."""
        trusted = self.up & ~self.suspected
        return tuple(index for index in owners if trusted >> index & 1)

    def by_trust(self, owners: tuple[int, ...]) -> tuple[int, ...]:
        """Return `owners` in their order, but those under suspicion last."""
        suspected = self.suspected
        return tuple(sorted(owners, key=lambda index: suspected >> index & 1)) if suspected else owners

    def by_ease(self, owners: tuple[int, ...]) -> tuple[int, ...]:
        """Return `owners` in their order, but busy ones later and those under suspicion last."""
        suspected, busy = self.suspected, self.busy
        return tuple(sorted(owners, key=lambda index: (suspected >> index & 1, busy >> index & 1)))

    def on_peer_up(self, index: int, link: Link) -> None:
        """Use `link` for node `index` from now on."""
        self.links[index] = link
        self.up |= 1 << index

    def on_peer_lost(self, index: int) -> None:
        """Tell every open exchange that a node can no longer be reached."""
        self.links[index] = None
        self.losses[index] += 1
        self.up &= ~(1 << index)
        for exchange in list(self.open.values()):
            exchange.on_lost(index)
