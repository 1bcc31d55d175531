"""How well does it heal: the measures of `bench.py --healing`.

  return      one of three nodes is down while others' clients write; when it is back, how long until all replicas are
              equal, and what do clients notice
  stale       one node returns with 5 % of its keys stale or missing, and hash trees alone find them: time and bytes
  difference  what it costs to find d differing keys among 1,000,000 (`bench_trees.py`)
  idle        what a healthy cluster with many keys spends on its health

Whether replicas are equal is asked of their hash trees (STATUS shows the roots), without reading a key.

How `return` is kept fair.  The load is open: requests begin when they are due, whatever became of the earlier ones, and
their time counts from then on, so a cluster that stalls is not spared.  The clients that are watched offer the same
load from the warming up to the end, before, while and after the node is away: `STRONG_PER_S` strong requests, half of
them gets, and `EVENTUAL_PER_S` eventual writes.  They use a store with two copies, so as not to blur the roots; while
the node is away one with three, for of two copies strong writes need both.  Three nodes and this client on two cores
are busy with that, not saturated; the table says how busy the machine was in each part, and if all cores were busy
before the node went away, the ratios say nothing.  Only while the node is away others write `WRITES_PER_S` random keys
of the measure.  p99 is that of a whole part, and that of its seconds (`p99_s`: what the p99 of nine of ten single
seconds stays below), which shows a bad second, and not a lone pause of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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
from scripts import bench_trees
from scripts.measuring import fill, quantile

MEASURES = ("return", "stale", "idle", "difference")
STRONG_PER_S = 400
EVENTUAL_PER_S = 400
WRITES_PER_S = 2500
WARM_S = 5.0
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
    """How long each request took, part by part of the measurement and second by second, by kind."""

    def __init__(self) -> None:
        self.parts: dict[tuple[str, str], dict[int, list[float]]] = {}
        self.errors: dict[str, int] = {}
        self.busy: dict[str, float] = {}
        self.part = ""

    def begin(self, part: str) -> None:
        """Note what comes now under this name."""
        self.busy[self.part] = psutil.cpu_percent()
        self.part = part
        self.errors[part] = 0

    def note(self, part: str, kind: str, due_s: float) -> None:
        """Note a request of a part that was due at that time and is answered now."""
        now_s = time.perf_counter()
        self.parts.setdefault((part, kind), {}).setdefault(int(now_s), []).append(now_s - due_s)

    def p99_ms(self, part: str, kind: str) -> float:
        """Return the 99th percentile of a part in milliseconds."""
        return _p99_ms([one for second in self.parts.get((part, kind), {}).values() for one in second])

    def p99_of_seconds_ms(self, part: str, kind: str) -> float:
        """Return the p99 that nine of ten seconds of a part stay below."""
        return quantile(sorted(_p99_ms(one) for one in self.parts.get((part, kind), {}).values()), 0.9) or 0.0


def _p99_ms(latencies_s: list[float]) -> float:
    return (quantile(sorted(latencies_s), 0.99) or 0.0) * 1e3


class Load:
    """Clients that ask at a steady rate, whatever becomes of it: strong gets and puts, and eventual writes."""

    def __init__(self, kv: kvclient.Kv, keys: int, value: bytes) -> None:
        self.watch = Watch()
        self.written: set[int] = set()
        """Keys of the measure that were written while the node was away."""
        self.is_away = False
        self._kv = kv
        self._watched = kv.store("watched")
        self._keys = keys
        self._value = value
        self._rng = random.Random(1)

    async def strong(self) -> None:
        """Get or put one key."""
        store = self._kv if self.is_away else self._watched
        key = f"w{self._rng.randrange(2000)}"
        if self._rng.random() < 0.5:
            await store.get(key, consistency="strong")
        else:
            await store.put(key, self._value, consistency="strong")

    async def eventual(self) -> None:
        """Write one key."""
        store = self._kv if self.is_away else self._watched
        await store.put(f"w{self._rng.randrange(2000, 10_000)}", self._value, consistency="eventual")

    async def write(self) -> None:
        """Write one key of the measure."""
        number = self._rng.randrange(self._keys)
        self.written.add(number)
        await self._kv.put(f"key{number:08}", self._value, consistency="eventual")

    async def offer(self, kind: str, request: Callable[[], Awaitable[None]], per_s: int) -> None:
        """Begin requests when they are due, until this is cancelled; then wait for them."""
        open_: set[asyncio.Task[None]] = set()
        due_s = time.perf_counter()
        try:
            while True:
                while due_s <= time.perf_counter():
                    task = asyncio.create_task(self._one(kind, request, due_s))
                    open_.add(task)
                    task.add_done_callback(open_.discard)
                    due_s += 1 / per_s
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        finally:
            await asyncio.gather(*open_)

    async def _one(self, kind: str, request: Callable[[], Awaitable[None]], due_s: float) -> None:
        part = self.watch.part
        try:
            await request()
        except KvError:
            self.watch.errors[part] += 1
        else:
            self.watch.note(part, kind, due_s)


@asynccontextmanager
async def loaded(kv: kvclient.Kv, keys: int, value: bytes) -> AsyncIterator[Load]:
    """Let clients work while the block runs."""
    load = Load(kv, keys, value)
    load.watch.begin("warm")
    async with (
        offered(load, "strong", load.strong, STRONG_PER_S),
        offered(load, "eventual", load.eventual, EVENTUAL_PER_S),
    ):
        yield load


@asynccontextmanager
async def offered(load: Load, kind: str, request: Callable[[], Awaitable[None]], per_s: int) -> AsyncIterator[None]:
    """Offer requests of a kind while the block runs."""
    task = asyncio.create_task(load.offer(kind, request, per_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def measure_return(keys: int, down_s: float, cluster: Cluster, value_bytes: int) -> Facts:
    """Measure a node's return after an outage under writes."""
    value, quiet_s = b"v" * value_bytes, min(10.0, down_s)
    async with kvclient.connect(cluster.texts, timeout=30) as kv:
        await put_all(kv, range(keys), value, consistency="eventual")
        await cluster.until_equal()
        async with loaded(kv, keys, value) as load:
            watch = load.watch
            await asyncio.sleep(WARM_S)
            watch.begin("before")
            await asyncio.sleep(quiet_s)
            load.is_away = True
            await asyncio.sleep(1.0)
            await cluster.ask("kill", "n3")
            watch.begin("down")
            async with offered(load, "write", load.write, WRITES_PER_S):
                await asyncio.sleep(down_s)
            watch.begin("starting")
            before = await cluster.counted()
            await cluster.ask("restart", "n3")
            load.is_away = False
            watch.begin("healing")
            took_s = await cluster.until_equal()
            after = await cluster.counted()
            watch.begin("after")
            await asyncio.sleep(quiet_s)
            watch.begin("")
    parts = ("before", "down", "starting", "healing", "after")
    found = {
        "keys": keys,
        "down_s": down_s,
        "keys_written_while_down": len(load.written),
        "equal_after_s": round(took_s, 1),
        "keys_repaired_by_trees": after["repaired"] - before["repaired"],
        "failed_while_healing": watch.errors["healing"],
        "busy_percent": {part: round(watch.busy[part]) for part in parts},
    }
    for kind in ("strong", "eventual"):
        p99 = {part: watch.p99_ms(part, kind) for part in parts}
        seconds = {part: watch.p99_of_seconds_ms(part, kind) for part in parts}
        found[f"{kind}_p99_ms"] = {part: round(ms, 1) for part, ms in p99.items()}
        found[f"{kind}_p99_s_ms"] = {part: round(ms, 1) for part, ms in seconds.items()}
        found[f"{kind}_p99_rises"] = round(p99["healing"] / max(p99["before"], 0.001), 2)
    return found


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
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))


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
    if "difference" in arguments.measures:
        found["difference"] = bench_trees.measure(int(1_000_000 * scale))
    return found


def rows(found: dict[str, Facts]) -> list[tuple[str, str, str]]:
    """Return the table's rows."""
    lines = []
    for measure, facts in found.items():
        for name, value in facts.items():
            shown = (
                ", ".join(f"{part} {ms:,}" for part, ms in value.items()) if isinstance(value, dict) else f"{value:,}"
            )
            lines.append((measure, name.replace("_", " "), shown))
    return lines
