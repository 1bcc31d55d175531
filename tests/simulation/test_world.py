"""Whole nodes in a simulated world: they start, serve, die, come back, and what was acknowledged is there."""

from __future__ import annotations

import asyncio

import pytest
from simulation.loop import SimDefect
from simulation.small import CONFIG, put, read, run, world_of

import kvclient

# -- life


@pytest.mark.parametrize("fifo", [True, False])
def test_three_whole_nodes_serve_the_real_client(fifo: bool) -> None:
    world = world_of(fifo=fifo)

    async def main() -> None:
        await world.serving()
        assert all(host.is_serving for host in world.hosts)
        await put(world, "k", "v")
        assert await read(world, "k") == "v"

    run(world, main())


def test_a_killed_node_comes_back_with_what_it_had_and_as_its_next_incarnation() -> None:
    world = world_of()

    async def main() -> None:
        await world.serving()
        await put(world, "k", "v")
        for index in range(3):
            world.crash(index)
        assert not any(host.is_up for host in world.hosts)
        for index in range(3):
            world.start(index)
        await world.serving()
        assert await read(world, "k") == "v"
        assert [host.incarnation for host in world.hosts] == [2, 2, 2]

    run(world, main())


def test_a_node_stops_in_order_and_its_links_say_goodbye() -> None:
    world = world_of()

    async def main() -> None:
        await world.serving()
        await put(world, "k", "v")
        await world.stop(0)
        assert not world.hosts[0].is_up
        assert world.hosts[0].node.state == "stopped"
        assert world.hosts[0].death is None
        assert await read(world, "k") == "v"

    run(world, main())


def test_a_stop_ends_also_if_the_node_dies_on_the_way() -> None:
    world = world_of()

    async def main() -> None:
        await world.serving()
        stopping = asyncio.create_task(world.stop(0))
        await asyncio.sleep(0)
        world.crash(0)
        await stopping

    run(world, main())


def test_a_machine_that_is_off_is_noticed_by_its_silence_only() -> None:
    world = world_of()

    async def main() -> None:
        await world.serving()
        links = world.hosts[1].node.peers.links
        world.crash(0, silently=True)
        await asyncio.sleep(CONFIG.limits.link_silence_s / 2)
        assert links[0] is not None
        await asyncio.sleep(2 * CONFIG.limits.link_silence_s)
        assert links[0] is None

    run(world, main())


def test_a_paused_node_goes_on_as_if_nothing_had_been() -> None:
    world = world_of()

    async def main() -> None:
        await world.serving()
        await put(world, "k", "v")
        world.pause(0)
        assert await read(world, "k") == "v"
        world.resume(0)
        await asyncio.sleep(1)
        assert world.hosts[0].is_serving

    run(world, main())


def test_a_partitioned_minority_does_not_serve_strongly_until_it_is_healed() -> None:
    world = world_of()

    async def main() -> None:
        await world.serving()
        async with kvclient.connect(world.config.nodes[0].address) as kv:
            world.network.partition(["n1"], ["n2", "n3", "alone"])
            world.network.partition(["world"], ["n2", "n3"])
            with pytest.raises(kvclient.KvError):
                await kv.put("k", 1, consistency="strong", timeout=3)
            world.network.heal()
            await asyncio.sleep(CONFIG.limits.link_silence_s)
            await kv.put("k", 2, consistency="strong")

    run(world, main())


def test_what_happens_and_what_nodes_log_is_told_to_who_listens(capfd: pytest.CaptureFixture[str]) -> None:
    world = world_of()
    told: list[tuple[str, ...]] = []
    world.on_event = lambda *facts: told.append(facts)

    async def main() -> None:
        await world.serving()
        world.crash(0)
        await asyncio.sleep(1)

    run(world, main())
    assert ("crash", "n1") in [(kind, name) for kind, _, name, *_ in told]
    assert any(kind == "log" and facts[0] == "n2" and "n1 is down" in facts[1] for kind, _, *facts in told)
    assert capfd.readouterr().err == ""


# -- clients


def test_a_client_is_killed_in_the_middle_of_a_call_without_a_word() -> None:
    world = world_of()
    seen: list[str] = []

    async def client() -> None:
        try:
            async with kvclient.connect(world.addresses) as kv:
                while True:
                    await kv.put("k", 1, consistency="strong")
        finally:
            seen.append("finally")

    async def main() -> None:
        await world.serving()
        task = world.spawn("c1", client)
        await asyncio.sleep(0.1)
        world.kill_client("c1")
        await asyncio.sleep(1)
        assert not task.done()
        assert seen == []
        assert await read(world, "k") == 1
        await asyncio.sleep(1)
        assert all(host.node.listener.connections == 2 for host in world.hosts)

    run(world, main())


def test_what_a_client_raises_ends_the_run_if_nobody_asks_for_it() -> None:
    world = world_of()

    async def client() -> None:
        raise LookupError("the client's own")

    async def main() -> None:
        world.spawn("c1", client)
        await asyncio.sleep(1)

    with pytest.raises(SimDefect, match="the client's own"):
        run(world, main())


def test_two_clients_draw_from_streams_of_their_own() -> None:
    world = world_of()
    drawn: dict[str, bytes] = {}

    async def client(name: str) -> None:
        async with kvclient.connect(world.addresses) as kv:
            drawn[name] = kv.new_operation_id().session

    async def main() -> None:
        await world.serving()
        await asyncio.gather(*[world.spawn(name, lambda name=name: client(name)) for name in ("c1", "c2")])  # type: ignore[misc]

    run(world, main())
    assert len(set(drawn.values())) == 2


# -- one seed, one run


def digest_under_faults(seed: int) -> str:
    """Return the digest of a short run with everything in it; `test_kernel` runs it in other processes, too."""
    world = world_of(seed)

    async def client(name: str) -> None:
        async with kvclient.connect(world.addresses) as kv:
            for number in range(10):
                try:
                    await kv.put("k", [name, number], consistency="strong", timeout=2)
                    await kv.update("n", lambda count: count + 1, default=0)
                except kvclient.KvError:
                    await asyncio.sleep(0.1)

    async def main() -> None:
        await world.serving()
        tasks = [world.spawn(name, lambda name=name: client(name)) for name in ("c1", "c2")]  # type: ignore[misc]
        world.network.wire("n1", "n2").piece_bytes_max = 20
        world.network.wire("n2", "n3").loss = 0.1
        world.hosts[1].clock.offset_ms = 300
        await asyncio.sleep(0.02)
        world.crash(0)
        world.network.reset("n2", "c1")
        await asyncio.sleep(0.1)
        world.start(0)
        world.network.partition(["n2"], ["n1", "n3"])
        await asyncio.sleep(0.5)
        world.network.heal()
        await asyncio.wait(tasks)

    run(world, main())
    return world.digest


def test_a_seed_gives_the_same_run_again() -> None:
    assert digest_under_faults(5) == digest_under_faults(5) != digest_under_faults(6)
