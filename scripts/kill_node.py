#!/usr/bin/env python3
"""The smallest useful fault script: kill a node under load, and check that nothing which was acknowledged is lost.

Copy it.  Other faults: "pause", "resume", "restart"; and, with `detached.cluster(config, "--proxied")`, the network:
`statefile.ask(directory, 10, do="cut", links=[["n1", "n2"], ["n2", "n1"]])` and `do="heal"`.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import kvclient
from kvnode import config as configuration
from kvnode.local import detached, plan, statefile


async def main(addresses: list[str], directory: str) -> int:
    """Write a thousand keys, one after the other, and kill and restart n2 meanwhile; return how many were lost."""
    async with kvclient.connect(addresses, consistency="strong") as kv:
        for number in range(1000):
            if number in (300, 600):
                do = "kill" if number == 300 else "restart"
                await asyncio.to_thread(statefile.ask, Path(directory), 60, do=do, node="n2")
                print(f"n2: {do}")
            await kv.put(f"key-{number}", number)  # raises unless a majority of the disks has it
        items = await kv.get_many([f"key-{number}" for number in range(1000)])
    return sum(getattr(items[f"key-{number}"], "value", None) != number for number in range(1000))


with tempfile.TemporaryDirectory() as directory:
    config = plan.on_free_ports(configuration.local(3, directory))
    with detached.cluster(config):
        lost = asyncio.run(main([node.address for node in config.nodes], directory))
print(f"1000 writes were acknowledged, {lost} are lost")
sys.exit(lost > 0)
