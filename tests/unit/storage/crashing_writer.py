"""Puts rows for ever and prints the number of each acknowledged one, until it is killed: FOLDER fsync|os."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from kvclient.wire.values import NO_BALLOT, Ballot
from kvnode.config import Limits
from kvnode.core.record import NO_ENTRY, NO_RECORD, Image, Record
from kvnode.storage.rocks import RocksEngine

LIMITS = Limits(disk_reserve_bytes=0, write_buffer_bytes=1 << 20, block_cache_bytes=1 << 20)


def row_key(number: int) -> bytes:
    return b"\0\0default\0" + b"k%06d" % number


def row_image(number: int) -> Image:
    ballot = Ballot(number.to_bytes(28, "big"))
    return Image(ballot, NO_BALLOT, NO_RECORD, ballot, Record(number.to_bytes(161, "big"), b""), NO_ENTRY, False)


async def write(folder: Path, sync: bool) -> None:
    loop = asyncio.get_running_loop()
    engine = RocksEngine.open(folder, LIMITS, lambda error: sys.exit(str(error)), loop)
    number = 0

    def put_next(acknowledged: int) -> None:
        nonlocal number
        if acknowledged >= 0:
            sys.stdout.write(f"{acknowledged}\n")
            sys.stdout.flush()
        mine, number = number, number + 1
        engine.put(row_key(mine), row_image(mine), sync=sync, then=lambda: put_next(mine))

    for _ in range(8):
        put_next(-1)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), sys.argv[2] == "fsync"))
