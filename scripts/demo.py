"""The walk-through of `scripts/demo`: a real cluster, real data, a node killed in the middle, and nothing lost.

Three node processes (fsync on) on free ports take the ISO tables that `pycountry` ships.  While `kvnode import` runs,
one node is killed with SIGKILL, and eight clients race increments on one counter all the time.  Then everything is
compared with what was asked for.  Each step says what it proves; the first that fails ends it with exit code 1.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pycountry
from rich.console import Console
from rich.markup import escape

import kvclient
from kvclient import Kv, KvError
from kvnode import config as configuration
from kvnode.cli import probe, show
from kvnode.config import Config
from kvnode.local import detached, plan, statefile
from kvnode.local.statefile import LocalError
from scripts.demo_counter import CLIENTS, Counter, racing
from scripts.demo_expecting import Failed, expect, mismatch, reason
from scripts.demo_gateway import save_and_lose

IMPORTS_IN_FLIGHT = 32
KILL_AFTER = 0.25
"""The node is killed once this part of the records is written."""
REFUSED_WITHIN_S = 1.0
HEALED_KEYS = 200
HEALED_WITHIN_S = 60.0
STEPS = 11

TABLES: dict[str, tuple[str, str]] = {
    "country": ("countries", "alpha_2"),
    "former-country": ("historic_countries", "alpha_4"),
    "subdivision": ("subdivisions", "code"),
    "language": ("languages", "alpha_3"),
    "language-family": ("language_families", "alpha_3"),
    "currency": ("currencies", "alpha_3"),
    "script": ("scripts", "alpha_4"),
}


class Proof(NamedTuple):
    """A line of the closing table."""

    title: str
    proves: str
    measured: str


@dataclass
class Demo:
    """The state of the walk-through."""

    config: Config
    scratch: Path
    console: Console
    records: dict[str, Any]
    proofs: list[Proof] = field(default_factory=list)
    counter: Counter = field(default_factory=Counter)

    @property
    def directory(self) -> Path:
        """The cluster's data directory."""
        return self.config.data_dir

    @property
    def addresses(self) -> list[str]:
        """Every node's address."""
        return [node.address for node in self.config.nodes]

    def begin(self, title: str, what: str) -> None:
        """Announce a step."""
        self.console.print(f"\n[bold]{len(self.proofs) + 1}/{STEPS}  {title}[/bold]")
        self.console.print(f"     {what}", style="dim")

    def prove(self, title: str, proves: str, measured: str) -> None:
        """Note that a step held."""
        self.proofs.append(Proof(title, proves, measured))
        self.console.print(f"     [green]holds[/green]  {measured}")
        self.console.print(f"     proves {proves}")

    def command(self, *arguments: str) -> list[str]:
        """Return a kvnode command line for this cluster."""
        return [sys.executable, "-m", "kvnode", *arguments, "--data-dir", str(self.directory)]

    async def kvnode(self, *arguments: str) -> None:
        """Run a kvnode command.  Raises Failed with what it said."""
        command = self.command(*arguments)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise Failed(
                f"`kvnode {' '.join(arguments)}` ended with code {process.returncode}: {said.decode().strip()}"
            )


def records() -> dict[str, Any]:
    """Return the ISO tables as key -> value: country/DE, subdivision/DE-BY, language/deu, currency/EUR, ..."""
    found: dict[str, Any] = {}
    for prefix, (table, code) in TABLES.items():
        for record in getattr(pycountry, table):
            fields = {name: value for name, value in record if isinstance(value, str)}
            found[f"{prefix}/{fields[code]}"] = fields
    return found


# -- the steps


async def import_with_a_death(demo: Demo) -> None:
    """Import everything; kill a node in the middle."""
    victim = demo.config.nodes[1].id
    demo.begin(
        f"kvnode import: {len(demo.records):,} records, written strong",
        f"once a quarter is written, {victim} is killed with SIGKILL; {CLIENTS} clients race on one counter meanwhile",
    )
    source = demo.scratch / "iso.jsonl"
    lines = (json.dumps({"key": key, "value": value}, ensure_ascii=False) for key, value in demo.records.items())
    source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    command = demo.command("import", str(source), "--concurrency", str(IMPORTS_IN_FLIGHT))
    started = time.monotonic()
    importer = await asyncio.create_subprocess_exec(*command)
    try:
        await written(demo, KILL_AFTER * len(demo.records))
        expect(importer.returncode is None, "the import was over before the node could be killed")
        await demo.kvnode("kill", victim)
        in_the_middle = importer.returncode is None
        code = await asyncio.wait_for(importer.wait(), 300)
    finally:
        if importer.returncode is None:
            importer.kill()
            await importer.wait()
    expect(in_the_middle, "the import was over before the node was dead")
    expect(code == 0, f"kvnode import ended with code {code}")
    demo.prove(
        "import with a node killed",
        "a strong write needs two of three nodes, and a dead one stops nobody",
        f"{len(demo.records):,} records in {time.monotonic() - started:.1f} s, {victim} killed on the way",
    )


async def written(demo: Demo, count: float) -> None:
    """Return when the nodes have answered so many strong puts."""
    addresses = [(node.host, node.port) for node in demo.config.nodes]
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        answers = await probe.statuses(addresses)
        if sum(a.get("ops", {}).get("strong put", 0) for a in answers if isinstance(a, dict)) >= count:
            return
        await asyncio.sleep(0.02)
    raise Failed(f"fewer than {count:.0f} records were written within two minutes")


async def restart(demo: Demo) -> None:
    """Start the dead node again while the clients go on."""
    victim = demo.config.nodes[1].id
    demo.begin(f"kvnode restart {victim}", "it recovers from its own disk and serves again")
    before, started = demo.counter.applied, time.monotonic()
    await demo.kvnode("restart", victim)
    took = time.monotonic() - started
    await asyncio.sleep(1)
    expect(demo.counter.applied > before, "no increment was applied while the node restarted")
    demo.prove(
        "the node comes back",
        "a restart needs nothing but the node's own directory, and clients do not wait for it",
        f"served again after {took:.1f} s; {demo.counter.applied - before} increments meanwhile",
    )


async def compare(demo: Demo, kv: Kv) -> None:
    """Read every record back and compare it with its source."""
    demo.begin("read every record back", "consistency strong, compared with the ISO tables field by field")
    started = time.monotonic()
    items = await kv.get_many(demo.records, consistency="strong", timeout=30)
    wrong = [
        key for key, item in items.items() if not isinstance(item, kvclient.Item) or item.value != demo.records[key]
    ]
    expect(not wrong, f"{len(wrong)} records are missing or differ, for example {wrong[:3]}")
    demo.prove(
        "every record is there",
        "no acknowledged write is lost when a node is killed",
        f"{len(items):,} of {len(demo.records):,} equal, in {time.monotonic() - started:.1f} s",
    )


async def count(demo: Demo, kv: Kv) -> None:
    """Compare the counter with what the clients were told."""
    counter = demo.counter
    demo.begin("the counter", f"{CLIENTS} clients raced first-writes on it, through the kill and the restart")
    item = await kv.get("counter", consistency="strong")
    value = item.value if item else None
    told = f"{counter.applied} increments reported as applied, {counter.settled} of them after an unknown outcome"
    expect(value == counter.applied, f"the counter is {value}, but {told}")
    demo.prove(
        "the counter is exact",
        "a first-write has one winner, and asking again with the same id applies nothing twice",
        f"counter {value} = {told}",
    )


async def second_create(demo: Demo, kv: Kv) -> None:
    """Create a key that exists."""
    demo.begin("a second create", "put country/DE with create=True, though it exists")
    lost = await mismatch(kv.put("country/DE", {"name": "somebody else's"}, create=True))
    expect(lost.current is not None and lost.current.value == demo.records["country/DE"], "the error lacks the item")
    item = await kv.get("country/DE", consistency="strong")
    expect(item is not None and item.value == demo.records["country/DE"], "the losing create changed the value")
    demo.prove("a second create loses", "a key is created once", "refused as EtagMismatch, value untouched")


async def stale_etag(demo: Demo, kv: Kv) -> None:
    """Write over an old ETag."""
    demo.begin("a stale ETag", "two writers read the same version; the slower one writes over what it never saw")
    first = await kv.put("note", "first", consistency="strong")
    second = await kv.put("note", "second", etag=first.etag)
    lost = await mismatch(kv.put("note", "third", etag=first.etag))
    expect(lost.current == second and lost.current is not None, "the error does not carry the current item")
    current = lost.current.value if lost.current else None
    expect(current == "second", f"the error's item holds {current!r}")
    demo.prove(
        "a stale ETag loses",
        "nobody overwrites what they have not seen, and the loser learns what stands there",
        f'refused; the error carries the current item, "{current}"',
    )


async def other_languages(demo: Demo, kv: Kv) -> None:
    """Use the same cluster through Dapr's state API."""
    demo.begin("the gateway", "Dapr's state API for programs in any language; `kvnode up` starts it")
    gateway = demo.config.gateway
    measured = await save_and_lose(f"http://{gateway.host}:{gateway.http_port}", kv)
    demo.prove("another language", "HTTP and kvclient see the same values and the same winner", measured)


async def heal(demo: Demo, kv: Kv) -> None:
    """Kill a node, write, start it again, and wait until it has everything: nobody reads."""
    victim = demo.config.nodes[2].id
    demo.begin(
        f"{victim} is away for {HEALED_KEYS} writes",
        "killed, and started again; nobody reads: it is sent what is owed to it, and hash trees show what else differs,"
        "\n     for example that it knew only in memory of writes before that they were decided",
    )
    before, _ = await equal(demo)
    await demo.kvnode("kill", victim)
    for number in range(HEALED_KEYS):
        await kv.put(f"healed/{number}", number, consistency="strong" if number % 2 else "eventual")
    await demo.kvnode("restart", victim)
    started = time.monotonic()
    owed, found = await equal(demo)
    demo.prove(
        "a node heals without reads",
        "what a replica missed reaches it by itself, whoever reads or does not",
        f"all hash trees equal {time.monotonic() - started:.1f} s after {victim} served:"
        f" {owed - before} keys were owed to it, {found:,} found by trees",
    )


async def equal(demo: Demo) -> tuple[int, int]:
    """Wait until the hash trees of all nodes are equal; return how many keys the others have sent because they owed
    them, and how many the last one got because trees differed."""
    addresses = [(node.host, node.port) for node in demo.config.nodes]
    give_up = time.monotonic() + HEALED_WITHIN_S
    while time.monotonic() < give_up:
        answers = [answer for answer in await probe.statuses(addresses) if isinstance(answer, dict)]
        trees = [answer["anti_entropy"] for answer in answers]
        is_built = len(trees) == len(addresses) and all(tree["trees"] == 1 for tree in trees)
        if is_built and all(tree["roots"] == trees[0]["roots"] for tree in trees):
            return sum(answer["hints_delivered"] for answer in answers[:2]), int(trees[2]["repaired"])
        await asyncio.sleep(0.1)
    raise Failed(f"the replicas were not equal within {HEALED_WITHIN_S:g} s")


async def two_dead(demo: Demo) -> None:
    """Kill two of three nodes; eventual goes on, strong is refused."""
    alive, *dead = (node.id for node in demo.config.nodes)
    demo.begin(
        f"two of three nodes dead: {' and '.join(dead)}", "eventual requests go on; strong ones cannot, and say so"
    )
    await asyncio.gather(*(demo.kvnode("kill", name) for name in dead))
    await unlinked(demo)
    async with kvclient.connect(demo.addresses) as kv:
        await kv.put("eventual", "written with one node", consistency="eventual")
        item = await kv.get("eventual", consistency="eventual")
        expect(item is not None and item.value == "written with one node", f"the eventual read gave {item!r}")
        demo.prove(
            "eventual with one node of three",
            "an eventual write and read need one replica",
            f"written to and read from {alive} alone",
        )
        demo.begin("a strong write with one node of three", "two nodes would have to agree")
        started = time.monotonic()
        try:
            await kv.put("strong", 1, consistency="strong")
        except KvError as error:
            took, refusal = time.monotonic() - started, error
        else:
            raise Failed("a strong write was applied by one node of three")
    expect(refusal.outcome == "not applied", f"the outcome is {refusal.outcome}, not 'not applied': {refusal}")
    expect(took < REFUSED_WITHIN_S, f"the refusal took {took:.2f} s")
    demo.prove(
        "a strong write is refused at once",
        "without a majority nothing is promised, and nobody is kept waiting",
        f"{type(refusal).__name__}, not applied, after {took * 1000:.0f} ms",
    )


async def unlinked(demo: Demo) -> None:
    """Return when the surviving node has noticed that the others are gone."""
    node = demo.config.nodes[0]
    for _ in range(200):
        facts = await probe.status(node.host, node.port)
        if set(facts["peers"].values()) == {"down"}:
            return
        await asyncio.sleep(0.02)
    raise Failed(f"{node.id} still counts on dead peers")


async def walk(demo: Demo) -> None:
    """Do every step."""
    async with racing(demo.addresses, demo.counter):
        await import_with_a_death(demo)
        await restart(demo)
    async with kvclient.connect(demo.addresses) as kv:
        for step in (compare, count, second_create, stale_etag, other_languages, heal):
            await step(demo, kv)
    await two_dead(demo)


def run(demo: Demo) -> bool:
    """Start the cluster, walk through, and stop it; return whether everything held."""
    names = [node.id for node in demo.config.nodes]
    try:
        demo.begin(
            "a real cluster", f"{len(names)} node processes on this machine, every acknowledgement after an fsync"
        )
        with detached.cluster(demo.config, with_gateway=True) as state:
            for node in state.nodes:
                demo.console.print(f"     {node.id} on {node.address}, pid {node.pid}", highlight=False)
            demo.prove("a cluster serves", "`kvnode up` is all it takes", f"{', '.join(names)} serve")
            asyncio.run(walk(demo))
    except (Failed, KvError, LocalError, probe.ProbeError, TimeoutError, ExceptionGroup) as error:
        demo.console.print(f"\n[bold red]FAILED[/bold red] in step {len(demo.proofs) + 1} of {STEPS}: {reason(error)}")
        tell_logs(demo)
        return False
    return len(demo.proofs) == STEPS


def tell_logs(demo: Demo) -> None:
    """Show what the nodes said last."""
    for log in sorted((demo.directory / statefile.LOGS).glob("*.log")):
        for line in statefile.tail(log, 5):
            demo.console.print(f"  {log.stem}| {escape(line)}", style="dim")


def main() -> None:
    """Walk through, say what held, and exit with 0 only if everything did."""
    scratch = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(soft_wrap=True, highlight=False)
    config = plan.on_free_ports(configuration.local(3, scratch / "cluster"))
    demo = Demo(config, scratch, console, records())
    started = time.monotonic()
    held = run(demo)
    rows = [(number, proof.title, proof.measured, proof.proves) for number, proof in enumerate(demo.proofs, 1)]
    print("\n" + show.table(("", "step", "measured", "proves"), rows))
    if held:
        took = f"in {time.monotonic() - started:.0f} s; nothing is left running"
        console.print(f"[bold green]all {STEPS} steps held[/bold green], {took}")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
