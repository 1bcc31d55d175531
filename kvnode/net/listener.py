"""The node's front door: it accepts connections, judges their first words and closes in stages.

Decides: how many may connect, whether a HELLO is of this protocol, what each role may send, the order of a shutdown.
Leaves to others: who is admitted (`Handler.admit`: cluster, identity, R1) and everything after the handshake.

Connections: at most `connections_max` clients.  Nodes are not counted, since a node that cannot reach its peers serves
nobody, and strangers get `_STRANGERS_MAX` places beyond, for the time of their handshake.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from functools import partial
from typing import Any, Final

from kvclient.wire.frames import Message, client_frame_bytes_max
from kvclient.wire.messages import (
    CLIENT_ANSWERS,
    CLIENT_REQUESTS,
    HELLO_FIELDS,
    NODE_FIELDS,
    PONG,
    PROTOCOL_VERSION,
    PULSE,
    SHAPES,
    WELCOME,
    MessageError,
    fields_check,
    shown,
)
from kvnode.config import Limits
from kvnode.net.connection import Handler, Link, Refusal
from kvnode.net.sweep import Sweep
from kvnode.runtime import Runtime

CLIENT_SHAPES: Final = {kind: SHAPES[kind] for kind in sorted(CLIENT_REQUESTS)}
NODE_SHAPES: Final = {
    kind: shape for kind, shape in SHAPES.items() if kind > PULSE and kind not in CLIENT_REQUESTS | CLIENT_ANSWERS
}
"""Between nodes a client's requests and their answers travel inside FORWARD and FORWARDED only."""
_STRANGERS_MAX: Final = 128
_LOG_PERIOD_S: Final = 1.0
_UINT64_MAX: Final = (1 << 64) - 1

_log = logging.getLogger(__name__)


class AddressError(Exception):
    """The address cannot be listened on; the text is one sentence that says why and what to do."""


class Listener:
    """Accepts links on one address.

    Stages of a shutdown, in this order: `stop_accepting`, then the service finishes what is in flight, then `drain`,
    then `close`.
    """

    def __init__(self, host: str, port: int, handler: Handler, limits: Limits, runtime: Runtime) -> None:
        self.host, self.port = host, port
        self._handler, self._limits, self._runtime = handler, limits, runtime
        shortest_s = min(limits.handshake_timeout_s, limits.frame_timeout_s, limits.link_silence_s)
        self._sweep = Sweep(runtime, min(1.0, shortest_s / 4))
        self._clients = 0
        self._server: asyncio.Server | None = None
        self._logged_s = float("-inf")
        self._unlogged = 0

    @property
    def connections(self) -> int:
        """Number of admitted links, of clients and nodes."""
        return sum(link.is_admitted and link.is_open for link in self._sweep.links)

    async def start(self) -> None:
        """Listen; with port 0 the system chooses one, see `port`.  Raises AddressError."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, self.host, self.port)
        except (OSError, OverflowError, UnicodeError) as error:
            raise AddressError(f"cannot listen on {self.host}:{self.port}: {_trouble(error)}") from error
        self.port = self._server.sockets[0].getsockname()[1]
        self._sweep.start()

    def stop_accepting(self) -> None:
        """Accept no more connections; those that stand go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def drain(self) -> bool:
        """Wait until every answer has been handed to the system, at most `drain_timeout_s`; return whether it was."""
        links = self._sweep.links
        return await self._sweep.until(
            lambda: not any(link.is_open and link.unsent_bytes for link in links), self._limits.drain_timeout_s
        )

    async def close(self) -> None:
        """Say GOODBYE on every link and disconnect."""
        self.stop_accepting()
        await self._sweep.close("shutdown", "the node is shutting down")

    # -- what links tell their owner

    def on_connected(self, link: Link) -> None:
        """Take a new connection in, or turn it away."""
        held = len(self._sweep.links)
        self._sweep.links[link] = None
        if held >= 2 * (self._limits.connections_max + _STRANGERS_MAX):
            link.abort("overloaded", "too many connections, even too many to say so")
        elif held >= self._limits.connections_max + _STRANGERS_MAX:
            link.close("overloaded", f"this node has {held} connections already; try another node")

    def on_greeting(self, link: Link, message: list[Any]) -> None:
        """Judge the form of a HELLO and pass it on."""
        hello = message[1]
        greeting_check("HELLO", hello, HELLO_FIELDS)
        role = hello["role"]
        if role not in ("client", "node"):
            raise MessageError(f'HELLO has role = {shown(role)}, expected "client" or "node"')
        if role == "node":
            node_fields_check("HELLO", hello)
        elif self._clients >= self._limits.connections_max:
            link.close("overloaded", f"this node serves {self._clients} clients, its limit; try another node")
            return
        link.kind, link.facts = role, hello
        self._handler.admit(link, hello, partial(self._answer, link))

    def answer_ping(self, link: Link, sent_ns: int) -> Message:
        """Tell a node of this machine's clock, for comparing machines (R4), and how this node is; tell a client the
        time that this node goes by (R24)."""
        clock = self._runtime.clock
        if link.kind == "node":
            return (PULSE, sent_ns, clock.machine_ms(), *self._handler.pulse())
        return (PONG, sent_ns, clock.wall_ms())

    def on_pulse(self, link: Link, message: list[Any]) -> None:
        """Ignore: the side that dialled asks."""

    def on_ended(self, link: Link) -> None:
        """Tell the handler, or the log if the link was never admitted."""
        if not link.is_admitted:
            if not link.was_dismissed and link.code != "lost":
                self._log(f"turned a connection away: {link.code}: {link.reason}")
            return
        if link.kind == "client":
            self._clients -= 1
        if link.code == "protocol":
            self._log(f"closed the link of a {link.kind}: {link.reason}")
        self._handler.on_lost(link)

    def on_disconnected(self, link: Link) -> None:
        """Forget the connection."""
        self._sweep.links.pop(link, None)

    # -- inside

    def _accept(self) -> Link:
        return Link(self, self._limits)

    def _answer(self, link: Link, answer: dict[str, Any] | Refusal) -> None:
        if not link.is_open or link.is_admitted:
            return
        if isinstance(answer, Refusal):
            link.close(answer.code, answer.text)
            return
        limits = self._limits
        on_batch = self._handler.on_batch
        if link.kind == "client":
            self._clients += 1
            link.admit("client", CLIENT_SHAPES, client_frame_bytes_max(limits.value_bytes_max), on_batch, 0.0)
        else:
            # The side that dialled sends a PING every heartbeat_s.
            silence_s_max = max(limits.link_silence_s, 3 * limits.heartbeat_s)
            link.admit("node", NODE_SHAPES, limits.frame_bytes_max, on_batch, silence_s_max)
        link.send((WELCOME, answer))

    def _log(self, text: str) -> None:
        now_s = self._runtime.clock.monotonic_s()
        if now_s - self._logged_s < _LOG_PERIOD_S:
            self._unlogged += 1
            return
        more = f" (and {self._unlogged} more since the last such line)" if self._unlogged else ""
        _log.warning("%s%s", text, more)
        self._logged_s, self._unlogged = now_s, 0


def _trouble(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the address is in use by another process; stop that, or give the node another port"
    return f"{getattr(error, 'strerror', None) or error}; give the node another host and port"


def greeting_check(kind: str, fields: dict[str, Any], expected: dict[str, type]) -> None:
    """Raise MessageError unless a HELLO or WELCOME is of our protocol version and has the expected fields."""
    protocol = fields.get("protocol")
    if type(protocol) is int and protocol != PROTOCOL_VERSION:
        raise MessageError(
            f"the other side speaks protocol {protocol}, this node speaks {PROTOCOL_VERSION}; run one version on both"
        )
    fields_check(kind, fields, expected)


def node_fields_check(kind: str, fields: dict[str, Any]) -> None:
    """Raise MessageError unless the identity of a node is there and every number of it fits into 64 bits."""
    fields_check(kind, fields, NODE_FIELDS)
    for name, expected_type in NODE_FIELDS.items():
        if expected_type is int and not 0 <= fields[name] <= _UINT64_MAX:
            raise MessageError(f"{kind} has {name} = {shown(fields[name])}, expected a number of 0 to 2^64 - 1")
