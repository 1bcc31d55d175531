"""`kvnode export`: whole stores out.

Decides: how an interrupted export is resumed.  Leaves to others: the text of a line (`lines`), the scan (`kvclient`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

import xxhash

from kvclient import Store
from kvclient.errors import ConfigError
from kvnode.cli import lines, show


async def export(store: Store, prefix: str, output: Path | None, identity: str) -> int:
    """Write every key of a store that begins with `prefix` as JSON Lines and return how many there are.

    With `output`, that file appears when it is complete.  `identity` names what is exported: a partial file of the same
    is gone on with, after its last whole line.  Raises ConfigError if the file cannot be written.
    """
    if output is None:
        return await _export_to(store, prefix, sys.stdout, "", 0)
    partial = partial_path(output, identity)
    try:
        with partial.open("a+b") as held:
            last, count = _cut_to_whole_lines(held)
        with partial.open("a", encoding="utf-8") as file:
            count = await _export_to(store, prefix, file, last, count)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror or error}; choose another --output") from error
    return count


def partial_path(output: Path, identity: str) -> Path:
    """Return where an export's lines stand until it is complete; an export of something else has another name."""
    return output.with_name(f"{output.name}.{xxhash.xxh3_64_hexdigest(identity.encode())}.partial")


def _cut_to_whole_lines(file: IO[bytes]) -> tuple[str, int]:
    """Cut off half a line at the end; return the last key and the number of lines."""
    file.seek(0)
    last, count, end = b"", 0, 0
    for raw in file:
        if raw.endswith(b"\n"):
            last, count, end = raw, count + 1, end + len(raw)
    file.truncate(end)
    line = lines.parse(last)
    return (line.key if line else "", count)


async def _export_to(store: Store, prefix: str, file: IO[str], after: str, count: int) -> int:
    """Append the lines of every key after `after`; keys come in order, so the ones before it are passed over."""
    with show.progress("export", None, count) as advance:
        async for item in store.scan(prefix, values=True):
            if item.key <= after:
                continue
            file.write(lines.dump(item) + "\n")
            count += 1
            advance(count, "keys")
    return count
