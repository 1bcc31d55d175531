"""The addresses at which the gateway listens.

Decides: that an address which is taken is refused, in one sentence, for HTTP and gRPC alike.  Leaves to others: what is
served there (`gateway`, `grpc`).
"""

from __future__ import annotations

import errno
import socket

BACKLOG = 1024


class AddressError(Exception):
    """The address cannot be listened on; the text is one sentence that says why and what to do."""


def listen(host: str, port: int, setting: str) -> list[socket.socket]:
    """Return a listening socket for every address of a host; port 0 is any free one.

    Raises AddressError, which names the port's `setting`.
    """
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            if sockets and port == 0:
                break
            opened = socket.create_server((str(address[0]), int(address[1])), family=family, backlog=BACKLOG)
            sockets.append(opened)
            # Connections inherit it.  An answer is two writes, and the second one would wait for the first's receipt,
            # which clients delay by 40 ms; asyncio sees to it only for sockets that it has made itself.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as error:
        for opened in sockets:
            opened.close()
        raise AddressError(f"cannot listen on {host}:{port}: {_trouble(error, setting)}") from error
    return sockets


def check(host: str, port: int, setting: str) -> None:
    """Make sure that somebody else can listen there who says less about a failure.  Raises AddressError."""
    for opened in listen(host, port, setting):
        opened.close()


def _trouble(error: OSError | UnicodeError, setting: str) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"another process does; stop that or choose another {setting}"
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
        return f"{reason}; choose another host"
    return f"{reason}; choose another {setting}"
