"""A cluster on virtual time, with clients: every process whole, and everything between them under the seed's control.

    world = SimWorld(7, config)
    for index in range(3):
        world.start(index)

    async def main() -> None:
        await world.serving()
        async with kvclient.connect(world.addresses) as kv:
            await kv.put("k", 1, consistency="strong")

    world.run(main())
    world.close()

The product is as in production, sockets and all: `kvnode.node.Node` with its own listener, peers and links, `kvclient`
with its own.  Only three things differ: the runtime (`clocks`), the transports that the event loop makes (`loop`,
`network`), the engine (`disks`).  What `kvnode.process` and `storage.directory` do for a process is done here by
`SimHost`: identity, incarnation, binding, the refusal after a loss, the end at a failure.

Everything runs inside lives.  `run` is one of its own, "world": from it faults are set and nodes started; a client runs
as a host of its own with `spawn`.  A node dies, as it must, of a failed write, of a row that was damaged or cannot be
read, and of being refused with an old copy of its directory; `SimHost.death` says of what.  Any other exception that
reaches a loop is a defect and ends the run with SimDefect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, NamedTuple, TypeVar

from simulation.clocks import SimClock, sim_runtime
from simulation.disks import OnRow, SimDisk, SimEngine
from simulation.lives import Life, SimTask
from simulation.loop import SimError, SimLoop
from simulation.network import SOCKET_BYTES, SimNetwork

from kvclient import chance
from kvnode.config import Config
from kvnode.node import Node
from kvnode.service.membership import Identity
from kvnode.storage.engine import StorageError

T = TypeVar("T")

STEPS_S = (2e-6, 1e-5, 1e-5, 1e-4)
"""What a call takes, drawn for each world: the slower the machines, the more crashes fall into the middle of things."""

SOCKETS_BYTES = (1024, 16 * 1024, SOCKET_BYTES)
"""What a socket takes ahead of its reader, drawn for each world: the less, the sooner writers are told to pause."""


class Backup(NamedTuple):
    """A copy of a node's data directory."""

    rows: dict[bytes, bytes]
    incarnation: int
    is_bound: bool


class SimHost:
    """The machine of one node: what outlives the node's processes, and the process that runs, if one does."""

    def __init__(self, world: SimWorld, index: int) -> None:
        self.world, self.index = world, index
        self.name = world.config.nodes[index].id
        self.rng = world.stream(f"host {self.name}")
        self.disk = SimDisk(index, world.stream(f"disk {self.name}"))
        self.node_id = self.rng.getrandbits(64) or 1
        self.incarnation = 0
        self.is_bound = False
        self.is_restored = False
        """True once an old copy of the data directory was put in its place."""
        self.has_lost = False
        """True: acknowledged rows may be gone, since some store has `durability = "os"` (R48)."""
        self.has_missed = False
        """True: it had no room for something that it coordinated itself; noted in runs without comparisons."""
        self.ends_s: list[float] = []
        """When processes have ended here, however."""
        self.death: BaseException | None = None
        """What the last process died of, if it was not killed."""
        self.clock = SimClock(world.loop)
        self.life: Life | None = None
        self.node: Node
        self.engine: SimEngine
        """Node and engine of the present process, or of the last."""
        self.served: asyncio.Future[None] = world.loop.create_future()
        """Done once the present process serves, or has ended without."""
        self.ended: asyncio.Future[None] = world.loop.create_future()
        """Done once the present process has ended, however."""
        self._stopping: asyncio.Future[None]

    @property
    def is_up(self) -> bool:
        """True while a process runs here."""
        return self.life is not None

    @property
    def is_serving(self) -> bool:
        """True while a process serves here."""
        return self.life is not None and self.node.state == "serving"

    def start(self, *, accept_data_loss: bool) -> None:
        """Start a process from what is on the disk.  Raises StorageError if it refuses to start."""
        assert self.life is None, f"{self.name} runs already"
        if self.has_lost and not accept_data_loss:
            raise StorageError(f"{self.name} has lost rows of a store with durability os (docs/protocol.md R48)")
        self.has_lost = False
        self.incarnation += 1
        self.death = None
        loop = self.world.loop
        self.life = life = loop.new_life(self.name, self.rng, self.on_defect)
        self.world.network.on_birth(life)
        if self.served.done():
            self.served = loop.create_future()
        self.ended, self._stopping = loop.create_future(), loop.create_future()
        try:
            self._build(life)
        except StorageError as error:
            self.on_defect(life, error)
            return
        task = loop.start_task(life, self._live(self.node), f"node {self.name}")
        task.add_done_callback(lambda task: self._on_end(life, task), context=loop.kernel.context)

    def backup(self) -> Backup:
        """Copy what is on the disk, as it stands."""
        return Backup(dict(self.disk.rows), self.incarnation, self.is_bound)

    def restore(self, backup: Backup) -> None:
        """Put a copy of the data directory in place of the one that stands; the node must be down."""
        assert self.life is None, f"{self.name} runs"
        self.disk.rows, self.disk.keys = dict(backup.rows), sorted(backup.rows)
        self.incarnation, self.is_bound = backup.incarnation, backup.is_bound
        self.is_restored = True

    def _build(self, life: Life) -> None:
        """Do what `kvnode.process.run` does before it serves."""
        loop = self.world.loop
        self.engine = SimEngine(loop, life, self.disk, partial(self._die, life))
        identity = Identity(self.name, self.node_id, self.incarnation, self.rng.getrandbits(63))
        runtime = sim_runtime(loop, life, self.clock)
        self.node = Node(self.world.config, identity, self.engine, runtime, is_new=not self.is_bound)
        self.node.on_serving = partial(self._on_serving, life)
        self.node.on_refusal = lambda text: self._on_refusal(life, text)

    async def _live(self, node: Node) -> None:
        await node.start()
        await self._stopping
        await node.stop()
        node.state = "stopped"

    def _on_serving(self, life: Life) -> None:
        if not life.is_dead:
            self.is_bound = True
            self._settle()

    def _settle(self) -> None:
        if not self.served.done():
            self.served.set_result(None)

    def _on_end(self, life: Life, task: asyncio.Task[None]) -> None:
        """The process has ended by itself."""
        if life.is_dead:
            return
        error = task.exception()
        if error is not None:
            self.on_defect(life, error)
        else:
            self.disk.sync()
            self._end(life, silently=False)

    def on_defect(self, life: Life, error: BaseException) -> None:
        """An exception has reached the loop of a process: it ends (R45-R47), and if it has no right to, so does the
        run."""
        if not (isinstance(error, StorageError) and self.disk.is_damaged):
            self.world.loop.fail(life, error)
        self._die(life, error)

    def _on_refusal(self, life: Life, text: str) -> None:
        """The others do not take this process for what it says it is (R1)."""
        error = SimError(f"{self.name} was refused: {text}")
        if not self.is_restored:
            self.world.loop.fail(life, error)
        self._die(life, error)

    def _die(self, life: Life, error: BaseException) -> None:
        """End the process at once, for a reason."""
        if not life.is_dead:
            self.death = error
            self.world.tell("died", self.name, str(error))
            self.kill(None, silently=False)

    def kill(self, keep_unsynced: int | None, *, silently: bool) -> None:
        """End the process where it stands."""
        if self.life is not None:
            self.world.loop.before_kill(self.life)
        if self.life is not None:  # else it has ended of what was found
            is_volatile = any(store.durability == "os" for store in self.world.config.stores.values())
            self.has_lost |= self.engine.cut(keep_unsynced) and is_volatile
            self._end(self.life, silently=silently)

    def _end(self, life: Life, *, silently: bool) -> None:
        self.ends_s.append(self.world.loop.now_s)
        self.world.loop.kill(life)
        self.world.network.on_death(life, silently=silently)
        self.life = None
        self._settle()
        self.ended.set_result(None)

    async def stop(self) -> None:
        """Stop the process as SIGTERM does, and return when it has ended."""
        if self.life is None:
            return
        if not self._stopping.done():
            self._stopping.set_result(None)
        await asyncio.wait((self.ended,))


class _Listener(logging.Handler):
    """Tells the world what its nodes log."""

    def __init__(self, world: SimWorld) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.tell("log", self._world.loop.current.name, record.getMessage())


class SimWorld:
    """The hosts, the network and the clients of one run."""

    def __init__(self, seed: int, config: Config, *, fifo: bool = False) -> None:
        self.seed, self.config = seed, config
        self.rng = self.stream("world")
        self.loop = SimLoop(self.stream("loop"), fifo=fifo)  # type: ignore[abstract]  # what it lacks raises
        self.loop.step_s = self.rng.choice(STEPS_S)
        names = {(node.host, node.port): node.id for node in config.nodes}
        self.network = self.loop.network = SimNetwork(self.loop, self.stream("network"), names)
        self.network.socket_bytes = self.rng.choice(SOCKETS_BYTES)
        self.hosts = [SimHost(self, index) for index in range(len(config.nodes))]
        self.clients: dict[str, Life] = {}
        self.on_event: Callable[..., None] | None = None
        """Hears what happens, for people: kind, time, and what belongs to it, all as text."""
        self._life = self.loop.new_life("world", self.rng)

    def stream(self, purpose: str) -> Random:
        """Return a random stream of its own for a purpose, so that one purpose does not disturb another."""
        return Random(f"{self.seed}/{purpose}")

    @property
    def addresses(self) -> str:
        """What `kvclient.connect` takes."""
        return ",".join(node.address for node in self.config.nodes)

    @property
    def now_ms(self) -> float:
        """Virtual time since the run began."""
        return (self.loop.now_s - 1000.0) * 1000

    @property
    def digest(self) -> str:
        """A hash over every step so far: equal for equal seeds, in every process."""
        return self.loop.digest

    def watch(self, *, on_durable: OnRow | None = None, on_written: OnRow | None = None) -> None:
        """Let somebody see every row that any disk syncs, or writes: replica, row key, image."""
        for host in self.hosts:
            host.disk.on_durable, host.disk.on_written = on_durable, on_written

    def tell(self, kind: str, *facts: str) -> None:
        """Tell whoever explains the run."""
        if self.on_event is not None:
            self.on_event(kind, f"{self.now_ms:.3f}", *facts)

    # -- running

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run everything until `coroutine` is done, and return its result.  May be called again.

        Raises SimStuck if it does not end, SimDefect if an exception reached a loop where it must not.
        """
        with self._dealt(), self._overheard():
            return self.loop.run(self._life, coroutine)

    @contextmanager
    def _dealt(self) -> Generator[None, None, None]:
        """Let the client's randomness come from the seed, each life's from its own stream."""
        fraction, some_bytes = chance.fraction, chance.some_bytes
        chance.fraction = lambda: self.loop.current.rng.random()
        chance.some_bytes = lambda count: self.loop.current.rng.randbytes(count)
        try:
            yield
        finally:
            chance.fraction, chance.some_bytes = fraction, some_bytes

    @contextmanager
    def _overheard(self) -> Generator[None, None, None]:
        """Let what nodes log be told with everything else, and go nowhere else."""
        log, handler = logging.getLogger("kvnode"), _Listener(self)
        before = log.level, log.propagate
        log.setLevel(logging.INFO if self.on_event is not None else logging.CRITICAL + 1)
        log.propagate = False
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.propagate = before[1]
            log.setLevel(before[0])

    def close(self) -> None:
        """End everything that still stands.  The run is over; nothing is told any more."""
        self.on_event = None
        self.watch()
        with self._dealt(), self._overheard():
            self.loop.dispose()

    # -- nodes

    def start(self, index: int, *, offset_ms: int | None = None, accept_data_loss: bool = False) -> None:
        """Start a node that is down; `serving` waits until it serves.  `offset_ms` sets its host's wall clock wrong.

        Raises StorageError if it refuses to start, having lost rows (R48).
        """
        if offset_ms is not None:
            self.hosts[index].clock.offset_ms = offset_ms
        self.hosts[index].start(accept_data_loss=accept_data_loss)
        self.tell("start", self.hosts[index].name)

    async def serving(self, *indexes: int) -> None:
        """Wait until these nodes (none: all that are up) serve, or have ended."""
        for index in indexes or range(len(self.hosts)):
            if self.hosts[index].is_up:
                await asyncio.wait((self.hosts[index].served,))

    def crash(self, index: int, *, keep_unsynced: int | None = None, silently: bool = False) -> None:
        """Kill a node where it stands.

        `keep_unsynced`: a power cut that leaves so many of the groups written since the last sync; None: a kill, which
        loses nothing that was written.  `silently`: the machine is off and nobody hears of it; else the system closes
        or resets the connections.
        """
        self.tell("crash", self.hosts[index].name)
        self.hosts[index].kill(keep_unsynced, silently=silently)

    async def stop(self, index: int) -> None:
        """Stop a node as SIGTERM does; returns when its process has ended."""
        self.tell("stop", self.hosts[index].name)
        await self.hosts[index].stop()

    def pause(self, index: int) -> None:
        """Let a node stand still (SIGSTOP)."""
        if (life := self.hosts[index].life) is not None:
            self.loop.pause(life)

    def resume(self, index: int) -> None:
        """Let a paused node go on (SIGCONT)."""
        if (life := self.hosts[index].life) is not None:
            self.loop.resume(life)

    # -- clients

    def spawn(self, name: str, client: Callable[[], Coroutine[Any, Any, T]]) -> SimTask[T]:
        """Run a client as a host of its own and return its task, which may be awaited."""
        assert name not in self.clients, f"{name} runs already"
        life = self.clients[name] = self.loop.new_life(name, self.stream(f"client {name}"))
        return self.loop.start_task(life, client(), name)

    def kill_client(self, name: str) -> None:
        """Kill a client where it stands; its task will never be done."""
        life = self.clients.pop(name)
        self.loop.before_kill(life)
        self.loop.kill(life)
        self.network.on_death(life, silently=False)
