"""Connecting to one address and shaking hands.

Decides: how long that may take, and the sentence that says what is wrong there: nobody listens, it is silent, it is
something else, it refuses us.  Leaves to others: the handshake itself (`connection`) and trying again (`cluster`).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from kvclient.addresses import Address
from kvclient.connection import Link
from kvclient.errors import NotConnected


async def dial(address: Address, cluster: str, timeout_s: float, on_change: Callable[[], None]) -> Link:
    """Connect, shake hands, and return the link; `link.welcomed` holds the node's facts.

    Raises NotConnected, with a sentence that says what is wrong at this address.
    """
    link = Link(address, cluster, on_change)
    is_through = False
    try:
        async with asyncio.timeout(timeout_s):
            await link.loop.create_connection(lambda: link, address.host, address.port)
            await asyncio.wait((link.welcomed, link.lost), return_when=asyncio.FIRST_COMPLETED)
        if link.is_open:
            is_through = True
            return link
        raise NotConnected(f"{address} is not a usable node: {link.lost.result()}")
    except TimeoutError as error:
        what = "accepted the connection but did not say it is a kvnode node" if link.is_accepted else "did not answer"
        raise NotConnected(f"{address} {what} within {timeout_s:g} seconds: check the address") from error
    except socket.gaierror as error:
        raise NotConnected(f"the host of {address} does not resolve ({error.strerror}): check its name") from error
    except ConnectionRefusedError as error:
        raise NotConnected(f"nobody listens at {address} (is the node up?)") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise NotConnected(f"{address} cannot be reached: {reason} (is the node up?)") from error
    finally:
        if not is_through:
            link.close("the handshake failed")
