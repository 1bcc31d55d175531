"""One question to one node, past the client's routing: what `status` needs to say about each node itself.

Decides: nothing.  Leaves to others: the messages (`kvclient.wire`), and what to make of the answers (`show`).
A node that is dead, paused or no node at all gives a `ProbeError` with one sentence; so does a wrong cluster.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import Any

from kvclient.wire import messages
from kvclient.wire.frames import Decoder, FrameError, encode
from kvclient.wire.messages import COMPARE, HELLO, PROTOCOL_VERSION, STATUS, MessageError

FRAME_BYTES_MAX = 16 << 20
TIMEOUT_S = 2.0
Facts = dict[str, Any]


class ProbeError(Exception):
    """A node did not answer the question; the text is one sentence with its address.

    `state` is "down" if nobody listens there, "other cluster" if a node of another one answers, else "unreachable": it
    may be paused, cut off, or no node at all.
    """

    def __init__(self, text: str, state: str = "unreachable") -> None:
        super().__init__(text)
        self.state = state


async def welcome(host: str, port: int, cluster: str = "", timeout_s: float = TIMEOUT_S) -> Facts:
    """Return what a node says of itself and its cluster when a client connects.  Raises ProbeError."""
    return await _ask(host, port, cluster, None, timeout_s)


async def status(host: str, port: int, cluster: str = "", timeout_s: float = TIMEOUT_S) -> Facts:
    """Return a node's STATUS facts, and the name of its cluster as `cluster`.  Raises ProbeError."""
    return await _ask(host, port, cluster, (STATUS, 1), timeout_s)


async def repair(host: str, port: int, cluster: str, begin: int, store: str, timeout_s: float = TIMEOUT_S) -> Facts:
    """Let a node begin to compare its copies, or just return how far it is.  Raises ProbeError."""
    return await _ask(host, port, cluster, (COMPARE, 1, begin, store), timeout_s)


async def statuses(addresses: Iterable[tuple[str, int]], cluster: str = "") -> list[Facts | ProbeError]:
    """Return the STATUS facts of every node, or why it has none, in the order of the addresses."""

    async def one(host: str, port: int) -> Facts | ProbeError:
        try:
            return await status(host, port, cluster)
        except ProbeError as error:
            return error

    return await asyncio.gather(*(one(host, port) for host, port in addresses))


async def _ask(host: str, port: int, cluster: str, question: tuple[Any, ...] | None, timeout_s: float) -> Facts:
    address = f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return await _exchange(reader, writer, cluster, question)
            finally:
                writer.close()
    except TimeoutError as error:
        raise ProbeError(f"{address} does not answer within {timeout_s:g} s") from error
    except (FrameError, MessageError) as error:
        raise ProbeError(f"what listens on {address} is not a kvnode: {error}") from error
    except socket.gaierror as error:
        raise ProbeError(f"the host of {address} does not resolve: {error.strerror}") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ProbeError(f"nobody listens on {address}: {reason}", "down") from error
    except EOFError as error:
        raise ProbeError(f"{address} closed the connection: it is not a kvnode, or it is stopping") from error


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cluster: str, question: tuple[Any, ...] | None
) -> Facts:
    hello = (HELLO, {"protocol": PROTOCOL_VERSION, "cluster": cluster, "role": "client"})
    writer.write(encode([hello], FRAME_BYTES_MAX))
    decoder = Decoder(FRAME_BYTES_MAX)
    name = cluster
    while True:
        data = await reader.read(1 << 16)
        if not data:
            raise EOFError
        for message in (message for batch in decoder.feed(data) for message in batch):
            messages.check(message)
            match message[0]:
                case messages.WELCOME if question is not None:
                    name = message[1].get("cluster", cluster)
                    writer.write(encode([question], FRAME_BYTES_MAX))
                case messages.WELCOME | messages.RESULT:
                    return {"cluster": name, **message[-1]}
                case messages.GOODBYE if message[1] == "cluster":
                    raise ProbeError(str(message[-1]), "other cluster")
                case messages.GOODBYE | messages.FAILED:
                    raise ProbeError(str(message[-1]))
