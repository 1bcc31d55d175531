#!/usr/bin/env python3
"""How fast is it: a closed loop of clients against three real nodes, beside the floor in the same run.

Starts three node processes of its own (fsync, a temporary directory, free ports) and drives them from this process,
with one kvclient and uvloop, the way `scripts/floor.py` drives its bare-bones nodes: N workers, each with one request
in flight, random keys, one second of warming up.  With the floor (the default) each repetition measures both, one
after the other, and the ratio is that of the medians: what a number says about this machine cancels out.

Workloads (all of them unless --workloads names some):
  strong-put     put, consistency strong                    strong-get    get, consistency strong
  first-write    put over the ETag of one's own last put    eventual-get  get, consistency eventual
  eventual-put   put, consistency eventual                  mixed         95 % strong get, 5 % strong put
  hot-key        strong put of one key by everybody         latency       strong put, one client, one request at a time
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import uvloop

import kvclient
from kvclient.errors import KvError
from kvnode import config as configuration
from kvnode import is_compiled
from kvnode.cli import probe, show
from kvnode.local import detached, plan
from kvnode.local.statefile import State
from scripts import bench_gateway, bench_healing
from scripts.measuring import fill, quantile

WARM_UP_S = 1.0
FLOOR = Path(__file__).with_name("floor.py")
FLOOR_LINE = re.compile(r"floor (put|get): +(\d+) ops/s +p50 +([\d.]+) ms +p99 +([\d.]+) ms")
NEAREST_FLOOR = {
    "strong-put": "put",
    "first-write": "put",
    "eventual-put": "put",
    "hot-key": "put",
    "latency": "put",
    "strong-get": "get",
    "eventual-get": "get",
    "mixed": "get",
}
WORKLOADS = tuple(NEAREST_FLOOR)
Operation = Callable[[random.Random, str], Awaitable[object]]


class Result(NamedTuple):
    """What one measurement, or the median of several, says."""

    ops_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float = 0.0
    cpu_us_per_op: Mapping[str, float] = MappingProxyType({})
    fsyncs_per_s: float = 0.0
    errors: int = 0


class Bench:
    """One client, the nodes that it drives, and the clocks of all their processes."""

    def __init__(self, arguments: argparse.Namespace, kv: kvclient.Kv, state: State) -> None:
        self.arguments = arguments
        self.kv = kv
        self.value = b"v" * arguments.value_bytes
        self.addresses = [(host, int(port)) for host, _, port in (n.address.rpartition(":") for n in state.nodes)]
        self.processes = {node.id: psutil.Process(node.pid) for node in state.nodes}
        self.processes["client"] = psutil.Process()
        self._etags: dict[str, str] = {}
        self._filled: dict[str, int] = {}

    async def workload(self, name: str) -> Result:
        """Measure one workload."""
        operation = await self._operation(name)
        workers = 1 if name == "latency" else self.arguments.concurrency
        return await self.measure(operation, workers, self.arguments.keys)

    async def _operation(self, name: str) -> Operation:
        kv, value = self.kv, self.value
        operations: dict[str, Operation] = {
            "strong-put": lambda rng, key: kv.put(key, value, consistency="strong"),
            "latency": lambda rng, key: kv.put(key, value, consistency="strong"),
            "hot-key": lambda rng, key: kv.put("hot", value, consistency="strong"),
            # keys of its own: the first strong read of an eventually written key is a write, for it absorbs the overlay
            "eventual-put": lambda rng, key: kv.put(f"ev{key[3:]}", value, consistency="eventual"),
            "strong-get": lambda rng, key: kv.get(key, consistency="strong"),
            "eventual-get": lambda rng, key: kv.get(key, consistency="eventual"),
            "mixed": lambda rng, key: (
                kv.put(key, value, consistency="strong") if rng.random() < 0.05 else kv.get(key, consistency="strong")
            ),
            "first-write": self._first_write,
        }
        prefix = "cas" if name == "first-write" else "key"
        await self.fill(prefix, self.arguments.keys)
        return operations[name]

    async def _first_write(self, rng: random.Random, key: str) -> None:
        etags = self._etags
        while True:
            key = f"cas{key[3:]}"
            etag = etags.pop(key, None)
            if etag is not None:
                break
            key = f"key{rng.randrange(self.arguments.keys):08}"  # another worker is at this one
        item = await self.kv.put(key, self.value, etag=etag)
        etags[key] = item.etag

    async def fill(self, prefix: str, keys: int) -> None:
        """Put every key that was not put yet, so that gets find what they ask for and checks have an ETag."""

        async def put(key: str) -> None:
            item = await self.kv.put(key, self.value, consistency="strong")
            if prefix == "cas":
                self._etags[key] = item.etag

        numbers = range(self._filled.get(prefix, 0), keys)
        await fill((f"{prefix}{number:08}" for number in numbers), put)
        self._filled[prefix] = max(keys, self._filled.get(prefix, 0))

    async def measure(self, operation: Operation, workers: int, keys: int) -> Result:
        """Run a closed loop of `workers` over random keys and return what it shows, without its first second."""
        latencies: list[float] = []
        errors = 0
        start = time.perf_counter() + WARM_UP_S
        stop = start + self.arguments.seconds

        async def worker(seed: int) -> None:
            nonlocal errors
            rng = random.Random(seed)
            while (begin := time.perf_counter()) < stop:
                key = "key%08d" % rng.randrange(keys)  # noqa: UP031 as the floor does
                try:
                    await operation(rng, key)
                except KvError:
                    errors += 1
                    continue
                if begin >= start:
                    latencies.append(time.perf_counter() - begin)

        costs, _ = await asyncio.gather(self._costs(), asyncio.gather(*(worker(seed) for seed in range(workers))))
        cpu, syncs_per_s = costs
        ops_per_s = len(latencies) / self.arguments.seconds
        cpu_us_per_op = {name: used / max(ops_per_s, 1) * 1e6 for name, used in cpu.items()}
        return Result(ops_per_s, *percentiles(latencies), cpu_us_per_op, syncs_per_s, errors)

    async def _costs(self) -> tuple[dict[str, float], float]:
        """Return the CPU seconds per second of each process and the syncs per second of all nodes, after warming up."""
        await asyncio.sleep(WARM_UP_S)
        since, cpu, syncs = time.perf_counter(), self._cpu_s(), await self._syncs()
        await asyncio.sleep(self.arguments.seconds - 0.2)
        spent = {name: used - cpu[name] for name, used in self._cpu_s().items()}
        more, seconds = await self._syncs() - syncs, time.perf_counter() - since
        return {name: used / seconds for name, used in spent.items()}, more / seconds

    def _cpu_s(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self.processes.items()}
        return {name: used.user + used.system for name, used in times.items()}

    async def _syncs(self) -> int:
        answers = await probe.statuses(self.addresses)
        return sum(answer.get("syncs", 0) for answer in answers if isinstance(answer, dict))

    def rss_mib(self) -> float:
        """Return the resident memory of the largest node."""
        return max(float(p.memory_info().rss) for name, p in self.processes.items() if name != "client") / 2**20


def percentiles(latencies: list[float]) -> tuple[float, float, float]:
    """Return p50, p99 and p99.9 in milliseconds."""
    latencies.sort()
    p50, p99, p999 = ((quantile(latencies, part) or 0.0) * 1e3 for part in (0.5, 0.99, 0.999))
    return p50, p99, p999


def median(results: list[Result]) -> Result:
    """Return the median of each number over the repetitions; errors are added up."""
    columns = {name: [getattr(result, name) for result in results] for name in Result._fields}
    cpu = {
        name: statistics.median(used[name] for used in columns["cpu_us_per_op"]) for name in results[0].cpu_us_per_op
    }
    plain = {
        name: statistics.median(columns[name]) for name in Result._fields if name not in ("cpu_us_per_op", "errors")
    }
    return Result(**plain, cpu_us_per_op=cpu, errors=sum(columns["errors"]))


def run_floor(arguments: argparse.Namespace, concurrency: int) -> dict[str, Result]:
    """Run the floor with the same settings and return its put and get."""
    ports = plan.free_ports(1)[0]
    command = [sys.executable, str(FLOOR), "--concurrency", str(concurrency), "--seconds", str(arguments.seconds)]
    command += ["--value-bytes", str(arguments.value_bytes), "--keys", str(arguments.keys)]
    environment = {**os.environ, "FLOOR_PORT": str(ports)}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {name: Result(float(ops), float(p50), float(p99)) for name, ops, p50, p99 in FLOOR_LINE.findall(output)}


async def measure_all(arguments: argparse.Namespace, state: State) -> tuple[dict[str, Result], dict[str, Result]]:
    """Return the medians of every workload and of the floor: "put", "get", and "latency" with one request at a time."""
    ours: dict[str, list[Result]] = {name: [] for name in arguments.workloads}
    floor: dict[str, list[Result]] = {}
    async with kvclient.connect([node.address for node in state.nodes], timeout=10) as kv:
        bench = Bench(arguments, kv, state)
        for repetition in range(arguments.repeat):
            for name in arguments.workloads:
                ours[name].append(await bench.workload(name))
                say(f"{repetition + 1}/{arguments.repeat} {name}: {ours[name][-1].ops_per_s:,.0f} ops/s")
            if arguments.floor:
                for name, result in (await asyncio.to_thread(floors, arguments)).items():
                    floor.setdefault(name, []).append(result)
                    say(f"{repetition + 1}/{arguments.repeat} floor {name}: {result.ops_per_s:,.0f} ops/s")
    return {name: median(r) for name, r in ours.items()}, {name: median(r) for name, r in floor.items()}


def floors(arguments: argparse.Namespace) -> dict[str, Result]:
    """Return the floor's numbers for the workloads that are measured."""
    found = run_floor(arguments, arguments.concurrency) if set(arguments.workloads) - {"latency"} else {}
    if "latency" in arguments.workloads:
        found["latency"] = run_floor(arguments, 1)["put"]
    return found


def ratio(name: str, ours: Result, floor: dict[str, Result]) -> float | None:
    """Return how a workload compares with the floor: in ops/s, for latency in its p50 (less is better)."""
    if name == "latency":
        return ours.p50_ms / floor[name].p50_ms if name in floor else None
    nearest = NEAREST_FLOOR[name]
    return ours.ops_per_s / floor[nearest].ops_per_s if nearest in floor else None


async def measure_memory(arguments: argparse.Namespace, state: State) -> dict[str, float]:
    """Return the memory of an empty and of a full node, and the speed of the full store beside the empty one's.

    The keys are put strong: the first strong read of an eventual value is a write, since it must absorb it (R20).
    """
    async with kvclient.connect([node.address for node in state.nodes], timeout=30) as kv:
        bench = Bench(arguments, kv, state)
        facts = {"empty_rss_mib": bench.rss_mib()}
        before = {name: await bench.workload(name) for name in ("strong-put", "strong-get")}
        facts["warm_rss_mib"] = bench.rss_mib()
        started = time.perf_counter()
        say(f"loading {arguments.memory_keys:,} keys")
        await bench.fill("key", arguments.memory_keys)
        facts["load_s"] = time.perf_counter() - started
        facts["loaded_rss_mib"] = bench.rss_mib()
        for name, result in before.items():
            after = await bench.measure(await bench._operation(name), arguments.concurrency, arguments.memory_keys)
            facts[f"{name}_ops_per_s_empty"], facts[f"{name}_ops_per_s_full"] = result.ops_per_s, after.ops_per_s
            facts[f"{name}_full_to_empty"] = after.ops_per_s / result.ops_per_s
        facts["full_rss_mib"] = bench.rss_mib()
        facts["added_rss_mib"] = facts["full_rss_mib"] - facts["empty_rss_mib"]
        return facts


# -- what is printed


def say(sentence: str) -> None:
    """Tell whoever watches how far it is."""
    if show.is_terminal(sys.stderr):
        print(sentence, file=sys.stderr)


HEADERS = ("workload", "ops/s", "p50 ms", "p99 ms", "p99.9 ms", "fsyncs/s", "CPU µs/op client", "per node", "of floor")


def rows(ours: dict[str, Result], floor: dict[str, Result]) -> list[tuple[object, ...]]:
    """Return the table's rows: every workload, then the floor."""
    made: list[tuple[object, ...]] = []
    for name, result in ours.items():
        cpu = result.cpu_us_per_op
        nodes = " ".join(f"{used:.0f}" for process, used in cpu.items() if process != "client")
        part = ratio(name, result, floor)
        label = name + (f" ({result.errors} errors)" if result.errors else "")
        shown = "-" if part is None else f"{part:.2f}" + (" x p50" if name == "latency" else "")
        times = (f"{ms:.2f}" for ms in (result.p50_ms, result.p99_ms, result.p999_ms))
        ops, syncs = f"{result.ops_per_s:,.0f}", f"{result.fsyncs_per_s:,.0f}"
        made.append((label, ops, *times, syncs, f"{cpu.get('client', 0):.0f}", nodes, shown))
    for name, result in floor.items():
        p50, p99 = f"{result.p50_ms:.2f}", f"{result.p99_ms:.2f}"
        label = "floor put, one at a time" if name == "latency" else f"floor {name}"
        made.append((label, f"{result.ops_per_s:,.0f}", p50, p99, "-", "-", "-", "-", "-"))
    return made


def facts_of(arguments: argparse.Namespace, ours: dict[str, Result], floor: dict[str, Result]) -> dict[str, Any]:
    """Return everything for machines."""
    names = ("concurrency", "value_bytes", "seconds", "keys", "repeat")
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "compiled": is_compiled(),
        },
        "settings": {name: getattr(arguments, name) for name in names},
        "workloads": {name: {**r._asdict(), "ratio_to_floor": ratio(name, r, floor)} for name, r in ours.items()},
        "floor": {name: result._asdict() for name, result in floor.items()},
    }


def parse() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight (64)")
    parser.add_argument("--value-bytes", type=int, default=100, help="bytes of each value (100)")
    parser.add_argument("--seconds", type=float, default=4.0, help="time measured per workload and repetition (4)")
    parser.add_argument("--keys", type=int, default=10_000, help="number of keys (10,000)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions, of which the medians count (3)")
    parser.add_argument("--floor", action=argparse.BooleanOptionalAction, default=True, help="measure the floor too")
    parser.add_argument("--memory", action="store_true", help="measure memory and speed of a full store instead")
    parser.add_argument("--memory-keys", type=int, default=1_000_000, help="keys of the full store (1,000,000)")
    bench_healing.add_options(parser)
    parser.add_argument("--gateway", action="store_true", help="measure HTTP and gRPC beside kvclient and bare echoes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if (
        min(arguments.concurrency, arguments.keys, arguments.repeat, arguments.memory_keys) < 1
        or arguments.seconds < 0.5
    ):
        parser.error("concurrency, keys, repeat and memory-keys must be at least 1, seconds at least 0.5")
    return arguments


def main() -> None:
    """Run what the command line asks for."""
    arguments = parse()
    if arguments.healing:
        found = uvloop.run(bench_healing.measure(arguments))
        table = show.table(("measure", "what", "value"), bench_healing.rows(found))
        print(show.as_json(found) if arguments.json else table)
        return
    if arguments.gateway:
        ways = uvloop.run(bench_gateway.measure(arguments, say))
        table = show.table(bench_gateway.HEADERS, bench_gateway.rows(ways))
        print(show.as_json(bench_gateway.facts(ways)) if arguments.json else table)
        return
    with tempfile.TemporaryDirectory(prefix="kvnode-bench-") as directory:
        config = plan.on_free_ports(configuration.local(3, directory))
        with detached.cluster(config) as state:
            if arguments.memory:
                facts = uvloop.run(measure_memory(arguments, state))
                lines = [(name, f"{value:,.2f}") for name, value in facts.items()]
                print(show.as_json(facts) if arguments.json else show.table(("memory and speed", "value"), lines))
                return
            ours, floor = uvloop.run(measure_all(arguments, state))
    if arguments.json:
        print(show.as_json(facts_of(arguments, ours, floor)))
    else:
        print(show.table(HEADERS, rows(ours, floor)))
        print("ratios are ops/s to the nearest operation of the floor; for latency, p50 to p50 (less is better)")
        print(f"kvnode runs {'compiled' if is_compiled() else 'as pure Python'}; the floor is always pure Python")


if __name__ == "__main__":
    main()
