"""How well does it heal: the three measures of `bench.py --healing`.

  return    one of three nodes is down while others' clients write; when it is back, how long until all replicas are
            equal, and what do clients notice
  stale     one node returns with 5 % of its keys stale or missing, and hash trees alone find them: time and bytes
  idle      what a healthy cluster with many keys spends on its health

Whether replicas are equal is asked of their hash trees (STATUS shows the roots), without reading a key.  The clients
whose latency is watched write to a store with two copies, so that their own writes do not blur the roots.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

import kvclient
from kvclient.errors import KvError
from kvnode import config as configuration
from kvnode.cli import probe
from kvnode.config import Config, StoreConfig
from kvnode.local import detached, plan, statefile
from kvnode.local.statefile import State
from scripts.measuring import fill, quantile

WATCHERS = 8
THINK_S = 0.008
"""Eight clients that think so long make some 900 requests a second: a load, not a flood."""
WRITES_PER_S = 2500
EQUAL_TIMEOUT_S = 300.0
IDLE_S = 30.0
ENTRY_OVERHEAD_BYTES = 62
"""Of an overlay entry: flags, version, times, tag."""

Facts = dict[str, Any]


class Cluster:
    """Three nodes, and what is asked of all of them."""

    def __init__(self, config: Config, state: State) -> None:
        self.directory = config.data_dir
        self.addresses = [(host, int(port)) for host, _, port in (n.address.rpartition(":") for n in state.nodes)]
        self.texts = [node.address for node in state.nodes]

    async def facts(self) -> list[Facts]:
        """Return what each node that answers says of itself."""
        answers = await probe.statuses(self.addresses)
        return [answer for answer in answers if isinstance(answer, dict)]

    async def ask(self, what: str, node: str) -> None:
        """Kill or restart a node."""
        await asyncio.to_thread(statefile.ask, self.directory, 700.0, do=what, node=node)

    async def until_equal(self) -> float:
        """Return how long it took until the trees of all nodes were the same."""
        began = time.perf_counter()
        while time.perf_counter() - began < EQUAL_TIMEOUT_S:
            facts = await self.facts()
            trees = [one["anti_entropy"] for one in facts]
            is_ready = len(trees) == 3 and all(tree["trees"] == 1 for tree in trees)
            if is_ready and len({tree["roots"]["3"] for tree in trees}) == 1:
                return time.perf_counter() - began
            await asyncio.sleep(0.1)
        raise SystemExit(f"the replicas were not equal within {EQUAL_TIMEOUT_S:g} s")

    async def counted(self) -> dict[str, int]:
        """Return the sums of what all nodes counted of their comparisons."""
        trees = [one["anti_entropy"] for one in await self.facts()]
        return {name: sum(tree[name] for tree in trees) for name in ("sent_bytes", "sent_messages", "sent", "repaired")}


@contextmanager
def running(**limits: Any) -> Iterator[Cluster]:
    """Start three nodes with two stores: "default" with three copies, "watched" with two."""
    with tempfile.TemporaryDirectory(prefix="kvnode-bench-") as directory:
        config = plan.on_free_ports(configuration.local(3, Path(directory)))
        stores = {**config.stores, "watched": StoreConfig("watched", replicas=2)}
        config = replace(config, stores=stores, limits=replace(config.limits, **limits))
        with detached.cluster(config) as state:
            yield Cluster(config, state)


async def put_all(kv: kvclient.Kv, numbers: range, value: bytes, **options: Any) -> None:
    """Put many keys, with many at once."""
    await fill((f"key{number:08}" for number in numbers), lambda key: kv.put(key, value, **options))


class Watch:
    """Clients that note how long each request takes, part by part of the measurement."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = {}
        self.errors: dict[str, int] = {}
        self.part = ""

    def begin(self, part: str) -> None:
        """Note what comes now under this name."""
        self.part = part
        self.parts[part] = []
        self.errors[part] = 0

    def p99_ms(self, part: str) -> float:
        """Return the 99th percentile of a part in milliseconds."""
        return (quantile(sorted(self.parts[part]), 0.99) or 0.0) * 1e3


@asynccontextmanager
async def watched(cluster: Cluster) -> AsyncIterator[Watch]:
    """Let clients work while the block runs: half strong gets, half strong puts."""
    watch = Watch()
    is_over = False

    async def client(store: kvclient.Store, seed: int) -> None:
        rng = random.Random(seed)
        while not is_over:
            key, part, began = f"w{rng.randrange(2000)}", watch.part, time.perf_counter()
            try:
                if rng.random() < 0.5:
                    await store.get(key, consistency="strong")
                else:
                    await store.put(key, b"v" * 100, consistency="strong")
            except KvError:
                watch.errors[part] += 1
            else:
                watch.parts[part].append(time.perf_counter() - began)
            await asyncio.sleep(THINK_S * 2 * rng.random())

    async with kvclient.connect(cluster.texts, timeout=10) as kv:
        watch.begin("warm")
        clients = [asyncio.create_task(client(kv.store("watched"), seed)) for seed in range(WATCHERS)]
        try:
            yield watch
        finally:
            is_over = True
            await asyncio.gather(*clients)


async def measure_return(keys: int, down_s: float, cluster: Cluster, value_bytes: int) -> Facts:
    """Measure a node's return after an outage under writes."""
    value = b"v" * value_bytes
    async with kvclient.connect(cluster.texts, timeout=30) as kv, watched(cluster) as watch:
        await put_all(kv, range(keys), value, consistency="eventual")
        await cluster.until_equal()
        watch.begin("before")
        await asyncio.sleep(min(10.0, down_s))
        await cluster.ask("kill", "n3")
        watch.begin("down")
        written = await write_steadily(kv, keys, down_s, value)
        watch.begin("starting")
        before = await cluster.counted()
        await cluster.ask("restart", "n3")
        watch.begin("healing")
        took_s = await cluster.until_equal()
        after = await cluster.counted()
        watch.begin("after")
        await asyncio.sleep(min(10.0, down_s))
    p99 = {part: round(watch.p99_ms(part), 2) for part in ("before", "down", "healing", "after")}
    return {
        "keys": keys,
        "down_s": down_s,
        "keys_written_while_down": written,
        "equal_after_s": round(took_s, 1),
        "p99_ms": p99,
        "p99_rises": round(p99["healing"] / max(p99["before"], 0.001), 2),
        "failed_while_healing": watch.errors["healing"],
        "keys_repaired_by_trees": after["repaired"] - before["repaired"],
    }


async def write_steadily(kv: kvclient.Kv, keys: int, seconds: float, value: bytes) -> int:
    """Write random keys at a steady rate, eventually; return how many different ones were written."""
    rng = random.Random(1)
    began, sent, written = time.perf_counter(), 0, set()
    while (elapsed := time.perf_counter() - began) < seconds:
        due = int(elapsed * WRITES_PER_S) - sent
        numbers = [rng.randrange(keys) for _ in range(min(due, 500))]
        sent += len(numbers)
        written.update(numbers)
        await asyncio.gather(*(kv.put(f"key{n:08}", value, consistency="eventual") for n in numbers))
        await asyncio.sleep(0.01)
    return len(written)


async def measure_stale(keys: int, cluster: Cluster, value_bytes: int) -> Facts:
    """Measure how hash trees alone repair a node of which 5 % of the keys are stale or missing."""
    old, new, stale = b"o" * value_bytes, b"n" * value_bytes, keys // 20
    async with kvclient.connect(cluster.texts, timeout=30) as kv:
        await put_all(kv, range(keys), old, consistency="eventual", w=3)
        await cluster.until_equal()
        await cluster.ask("kill", "n3")
        await asyncio.sleep(1.0)
        begin = keys - stale // 2  # half of them are there and stale, half are missing
        await put_all(kv, range(begin, begin + stale), new, consistency="eventual", w=2)
        before = await cluster.counted()
        began = time.perf_counter()
        await cluster.ask("restart", "n3")
        start_s = time.perf_counter() - began
        took_s = await cluster.until_equal()
        after = await cluster.counted()
    spent = {name: after[name] - before[name] for name in before}
    differing_bytes = stale * (len("??default?key00000000") + ENTRY_OVERHEAD_BYTES + value_bytes)
    return {
        "keys": keys,
        "differing_keys": stale,
        "node_starts_s": round(start_s, 1),
        "equal_after_s": round(took_s, 1),
        "bytes_of_differing_keys": differing_bytes,
        "bytes_sent": spent["sent_bytes"],
        "ratio": round(spent["sent_bytes"] / differing_bytes, 2),
        "messages": spent["sent_messages"],
        "records_sent": spent["sent"],
        "records_that_changed_something": spent["repaired"],
    }


async def measure_idle(keys: int, cluster: Cluster, value_bytes: int) -> Facts:
    """Measure what nobody asked for: CPU and network of a quiet cluster, and of one comparison of everything."""
    async with kvclient.connect(cluster.texts, timeout=30) as kv:
        await put_all(kv, range(keys), b"v" * value_bytes, consistency="eventual")
    await cluster.until_equal()
    await asyncio.sleep(10.0)
    facts = await cluster.facts()
    idle = await _spent(facts, IDLE_S)
    before = await cluster.counted()
    cpu_s = _cpu_s(facts)
    for host, port in cluster.addresses:
        await probe.repair(host, port, "", 1, "")
    is_running = True
    while is_running:
        await asyncio.sleep(0.2)
        asked = [await probe.repair(host, port, "", 0, "") for host, port in cluster.addresses]
        is_running = any(one["running"] for one in asked)
    comparison_s = max(after - then for after, then in zip(_cpu_s(facts), cpu_s, strict=True))
    after = await cluster.counted()
    interval_s = configuration.Limits().repair_interval_s
    comparison_bytes = after["sent_bytes"] - before["sent_bytes"]
    rss_mib = max(facts["rss_bytes"] for facts in await cluster.facts()) / 2**20
    return {
        "keys": keys,
        "cpu_percent_of_a_core_per_node": round(idle["cpu_percent"] + comparison_s / interval_s * 100, 2),
        "bytes_per_s_of_all_nodes": round(idle["bytes_per_s"] + comparison_bytes / interval_s),
        "comparison_cpu_s": round(comparison_s, 3),
        "comparison_bytes": comparison_bytes,
        "rss_mib": round(rss_mib, 1),
    }


def _cpu_s(facts: list[Facts]) -> list[float]:
    times = [psutil.Process(one["pid"]).cpu_times() for one in facts]
    return [used.user + used.system for used in times]


def _written_bytes(facts: list[Facts]) -> list[int]:
    return [psutil.Process(one["pid"]).io_counters().write_chars for one in facts]


async def _spent(facts: list[Facts], seconds: float) -> dict[str, float]:
    """Return CPU per node and what all nodes write per second, to sockets and files, without asking them anything."""
    cpu_s, written = _cpu_s(facts), _written_bytes(facts)
    await asyncio.sleep(seconds)
    more = sum(_written_bytes(facts)) - sum(written)
    busiest = max(after - before for after, before in zip(_cpu_s(facts), cpu_s, strict=True))
    return {"cpu_percent": busiest / seconds * 100, "bytes_per_s": more / seconds}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of these measures."""
    parser.add_argument("--healing", action="store_true", help="measure healing instead: how fast, at what cost")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the keys and times of --healing (1)")
    parser.add_argument(
        "--measures", nargs="+", choices=("return", "stale", "idle"), default=["return", "stale", "idle"]
    )


async def measure(arguments: argparse.Namespace) -> dict[str, Facts]:
    """Run the measures, each on a cluster of its own."""
    scale, size = arguments.scale, arguments.value_bytes
    found: dict[str, Facts] = {}
    if "return" in arguments.measures:
        with running() as cluster:
            found["return"] = await measure_return(int(100_000 * scale), 60 * scale, cluster, size)
    if "stale" in arguments.measures:
        without_hints = {"hint_bytes_max": 0} if hasattr(configuration.Limits(), "hint_bytes_max") else {}
        with running(**without_hints) as cluster:
            found["stale"] = await measure_stale(int(200_000 * scale), cluster, size)
    if "idle" in arguments.measures:
        with running() as cluster:
            found["idle"] = await measure_idle(int(1_000_000 * scale), cluster, size)
    return found


def rows(found: dict[str, Facts]) -> list[tuple[str, str, str]]:
    """Return the table's rows."""
    lines = []
    for measure, facts in found.items():
        for name, value in facts.items():
            shown = (
                ", ".join(f"{part} {ms:g}" for part, ms in value.items()) if isinstance(value, dict) else f"{value:,}"
            )
            lines.append((measure, name.replace("_", " "), shown))
    return lines
