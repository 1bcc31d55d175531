"""`kvnode repair`: let every node compare its copies with its partners now, and say what came of it.

Decides: how the progress of all nodes becomes one bar, and the summary.  Leaves to others: comparing and repairing
(`kvnode.service.healing.anti_entropy`); of two nodes only one asks the other, so each node is asked to begin.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import click

from kvclient import options
from kvnode.cli import show, target
from kvnode.cli.operations import address_option, config_option, data_dir_option, json_option

POLL_S = 0.25
_SILENT_MAX = 20
"""Questions without an answer after which a node is given up."""
HEADERS = ("node", "compared with", "not compared with", "ranges", "differing", "records sent", "repaired")

Facts = dict[str, Any]


@click.command()
@click.option("--store", default="", help="Repair this store only; default: all stores.")
@config_option
@address_option
@data_dir_option
@json_option
def repair(store: str, config: Path | None, address: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """Compare all copies of all keys now, and repair those that differ.

    Nodes do so by themselves every few minutes and when one comes back; this does not wait for that.  It keeps to the
    repair budget, so clients should not notice.

    Of each pair of nodes the first one compares the ranges that both keep, and its row counts what was sent and changed
    on either side.  A range is one partition of the stores that have the same number of copies.  A node that is down
    cannot be compared: it is named, and the exit code is 1.  With --address only those nodes begin.
    """
    if store:
        options.store_prefix(store)
    found = target.find(address, config, data_dir)
    started = time.monotonic()
    nodes = asyncio.run(_repair(found, store))
    seconds = round(time.monotonic() - started, 1)
    failed = [facts for facts in nodes if "error" in facts or facts["failed"]]
    if as_json:
        click.echo(show.as_json({"seconds": seconds, "nodes": nodes, "complete": not failed}))
    else:
        click.echo(_summary(nodes, store, seconds, is_complete=not failed))
    sys.exit(1 if failed else 0)


def _summary(nodes: list[Facts], store: str, seconds: float, *, is_complete: bool) -> str:
    rows: list[list[object]] = []
    for facts in nodes:
        if "error" in facts:
            rows.append([facts["node"], *("-" for _ in HEADERS[1:])])
        else:
            failed = facts["failed"]
            compared = [name for name in facts["partners"] if name not in failed]
            counts = [facts[name] for name in ("compared", "differing", "sent", "repaired")]
            rows.append([facts["node"], ", ".join(compared) or "-", ", ".join(failed) or "-", *counts])
    repaired = sum(facts.get("repaired", 0) for facts in nodes)
    differing = sum(facts.get("differing", 0) for facts in nodes)
    ranges = sum(facts.get("compared", 0) for facts in nodes)
    of_store = f" of store {store!r}" if store else ""
    told = (
        f"{show.counted(repaired, 'key')}{of_store} repaired; {differing:,} of {show.counted(ranges, 'range')} differed"
    )
    errors = [f"{facts['node']}: {facts['error']}" for facts in nodes if "error" in facts]
    if not is_complete:
        told += "; not all copies were compared"
    return "\n".join([show.table(HEADERS, rows, turns=True), *errors, f"{told}; {seconds:g} s"])


async def _repair(found: target.Target, store: str) -> list[Facts]:
    """Let every node begin, and wait until all have ended."""
    nodes = await asyncio.gather(*(_ask(found, at, store, 1) for at in range(len(found.names))))
    silent = [0] * len(nodes)
    with show.progress("repair", None) as advance:
        while any(facts.get("running") for facts in nodes):
            await asyncio.sleep(POLL_S)
            for at, facts in enumerate(nodes):
                if not facts.get("running"):
                    continue
                answer = await _ask(found, at, store, 0)
                silent[at] = silent[at] + 1 if "error" in answer else 0
                if not silent[at] or silent[at] > _SILENT_MAX:
                    nodes[at] = answer
            advance(sum(facts.get("compared", 0) for facts in nodes), _words(nodes))
    return list(nodes)


def _words(nodes: list[Facts]) -> str:
    ranges = sum(facts.get("ranges", 0) for facts in nodes)
    repaired = sum(facts.get("repaired", 0) for facts in nodes)
    unbuilt = [facts["node"] for facts in nodes if facts.get("trees", 1.0) < 1.0]
    waiting = f", {', '.join(unbuilt)} still build their trees" if unbuilt else ""
    return f"of {ranges} ranges, {repaired} keys repaired{waiting}"


async def _ask(found: target.Target, at: int, store: str, begin: int) -> Facts:
    from kvnode.cli import probe

    host, port = found.addresses[at]
    try:
        facts = await probe.repair(host, port, found.cluster, begin, store)
    except probe.ProbeError as error:
        return {"node": found.names[at], "error": str(error)}
    facts.pop("cluster")
    return {"node": found.names[at], **facts}
