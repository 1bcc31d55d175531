"""The supervisor of `kvnode up` with small stand-in processes: what it does with nodes that behave in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvnode import config as configuration
from kvnode.config import Config
from kvnode.local import plan, statefile
from kvnode.local import supervisor as supervision
from kvnode.local.statefile import LocalError
from kvnode.local.supervisor import Supervisor

STAND_IN = """
import signal, sys, time
name, mood = sys.argv[1], sys.argv[2]
if mood == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mood == "broken":
    sys.exit("kvnode: its data directory belongs to another cluster")
print(f"kvnode {name} serves on nowhere", flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = plan.on_free_ports(configuration.local(3, tmp_path / "data"))
    return replace(made, limits=replace(made.limits, drain_timeout_s=0.2))


class Running:
    def __init__(self, supervisor: Supervisor, said: list[str]) -> None:
        self.supervisor = supervisor
        self.said = said
        self.directory = supervisor.directory
        self.code: int | None = None

    async def ask(self, **request: Any) -> dict[str, Any]:
        return await asyncio.to_thread(statefile.ask, self.directory, 20, **request)

    def node(self, name: str) -> statefile.NodeState:
        state = statefile.load(self.directory)
        assert state is not None
        return next(node for node in state.nodes if node.id == name)


Start = Callable[..., Awaitable[Running]]


@asynccontextmanager
async def supervised(config: Config, *, with_gateway: bool = False, **moods: str) -> AsyncIterator[Running]:
    """Run a supervisor over stand-ins until the block ends; n1="broken" makes that one exit at once."""
    said: list[str] = []

    def command(node_id: str, path: Path) -> list[str]:
        return [sys.executable, "-c", STAND_IN, node_id, moods.get(node_id, "good")]

    running = Running(Supervisor(config, said.append, command, with_gateway=with_gateway), said)
    started = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        run = group.create_task(running.supervisor.run(lambda supervisor: started.set()))
        await started.wait()
        yield running
        running.supervisor.request_stop()
        running.code = await run


async def test_every_node_serves_and_the_state_file_names_their_processes(config: Config) -> None:
    async with supervised(config) as running:
        state = statefile.running(config.data_dir)
        assert [node.state for node in state.nodes] == ["serving"] * 3
        assert all(node.is_alive for node in state.nodes)
        assert [node.address for node in state.nodes] == [node.address for node in config.nodes]
    assert running.code == 0


async def test_no_process_is_left_after_a_stop(config: Config) -> None:
    async with supervised(config):
        state = statefile.running(config.data_dir)
    assert state.orphans() == ()
    assert not statefile.is_supervised(config.data_dir)


async def test_a_node_that_ignores_sigterm_is_killed_with_a_message(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "STOP_GRACE_S", 0.1)
    async with supervised(config, n2="stubborn") as running:
        stubborn = running.node("n2")
    assert not stubborn.is_alive
    assert any("n2" in sentence and "was killed" in sentence for sentence in running.said)


async def test_a_killed_node_is_reported_and_stays_down_until_it_is_restarted(config: Config) -> None:
    async with supervised(config) as running:
        before = running.node("n1")
        os.kill(before.pid, signal.SIGKILL)
        await running.supervisor.nodes["n1"].gone.wait()
        assert any(f"n1 (pid {before.pid}) was killed by SIGKILL" in sentence for sentence in running.said)
        assert running.node("n1").state == "down"
        await running.ask(do="restart", node="n1")
        assert running.node("n1").state == "serving"
        assert running.node("n1").pid != before.pid


async def test_a_node_that_does_not_start_is_reported_with_its_last_words_and_the_others_serve(config: Config) -> None:
    async with supervised(config, n3="broken") as running:
        states = {node.id: node.state for node in statefile.running(config.data_dir).nodes}
        assert states == {"n1": "serving", "n2": "serving", "n3": "down"}
        assert "belongs to another cluster" in (await running.ask(do="status"))["last_words"]["n3"]
        with pytest.raises(LocalError, match=r"n3 does not serve.*\n.*another cluster"):
            await running.ask(do="restart", node="n3")


async def test_a_cluster_of_which_no_node_starts_gives_up(config: Config) -> None:
    async with supervised(config, n1="broken", n2="broken", n3="broken") as running:
        pass
    assert running.code == 1


async def test_kill_pause_and_resume_reach_exactly_the_named_node(config: Config) -> None:
    async with supervised(config) as running:
        await running.ask(do="pause", node="n1")
        async with asyncio.timeout(60):  # the signal is sent; the kernel stops the process when it next looks
            while Path(f"/proc/{running.node('n1').pid}/stat").read_text().rpartition(")")[2].split()[0] not in "Tt":
                await asyncio.sleep(0.01)
        assert running.node("n1").state == "paused"
        await running.ask(do="resume", node="n1")
        assert running.node("n1").state == "serving"
        await running.ask(do="kill", node="n2")
        assert [running.node(name).state for name in ("n1", "n2", "n3")] == ["serving", "down", "serving"]
        with pytest.raises(LocalError, match="n2 does not run"):
            await running.ask(do="pause", node="n2")


async def test_a_paused_node_is_drained_like_any_other(config: Config) -> None:
    async with supervised(config) as running:
        await running.ask(do="pause", node="n1")
    assert not any("killed" in sentence for sentence in running.said)


async def test_an_unknown_node_or_request_is_refused_with_what_there_is(config: Config) -> None:
    async with supervised(config) as running:
        with pytest.raises(LocalError, match='no node "n9"; the nodes are n1, n2, n3'):
            await running.ask(do="kill", node="n9")
        with pytest.raises(LocalError, match="another version"):
            await running.ask(do="dance")
        with pytest.raises(LocalError, match="not a control request"):
            await running.ask(node="n1")


async def test_the_gateway_is_one_more_process_that_the_same_commands_reach(config: Config) -> None:
    async with supervised(config, with_gateway=True) as running:
        gateway = statefile.running(config.data_dir).gateway
        assert gateway is not None
        assert (gateway.id, gateway.state, gateway.address) == ("gateway", "serving", config.gateway.address)
        await running.ask(do="kill", node="gateway")
        answer = await running.ask(do="restart", node="gateway")
        assert answer["gateway"]["state"] == "serving"
        assert answer["gateway"]["pid"] != gateway.pid
    state = statefile.load(config.data_dir)
    assert state is not None
    assert state.orphans() == ()


async def test_a_gateway_that_does_not_start_leaves_the_nodes_alone(config: Config) -> None:
    async with supervised(config, with_gateway=True, gateway="broken") as running:
        answer = await running.ask(do="wait")
        assert answer["gateway"]["state"] == "down"
        assert "another cluster" in answer["last_words"]["gateway"]
        assert [node["state"] for node in answer["nodes"]] == ["serving"] * 3
    assert running.code == 0


@pytest.mark.parametrize("key", ["http_port", "grpc_port"])
async def test_a_taken_port_of_the_gateway_is_named_and_nothing_is_started(config: Config, key: str) -> None:
    port = getattr(config.gateway, key)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
    async with server:
        with pytest.raises(LocalError, match=rf"127.0.0.1:{port}: it is taken .* \[gateway\] {key} .* --no-gateway"):
            await Supervisor(config, print, with_gateway=True).run(lambda supervisor: None)
        async with supervised(config):
            pass  # without a gateway nobody minds


async def test_a_second_supervisor_on_one_data_directory_is_refused(config: Config) -> None:
    async with supervised(config):
        with pytest.raises(LocalError, match=rf"runs on .* already \(pid {os.getpid()}\)"):
            await Supervisor(config, print).run(lambda supervisor: None)


async def test_a_taken_port_is_named_and_nothing_is_started(config: Config) -> None:
    taken = config.nodes[1]
    server = await asyncio.start_server(lambda reader, writer: None, taken.host, taken.port)
    async with server:
        with pytest.raises(LocalError, match=f"port in use: {taken.address} of node n2"):
            await Supervisor(config, print).run(lambda supervisor: None)
    assert not config.data_dir.exists()


async def test_options_of_a_start_are_for_the_first_start_of_each_node_only(config: Config) -> None:
    """R48: `restart` never accepts a loss by itself."""
    stand_in = "import sys; print(sys.argv[1:], flush=True)\n" + STAND_IN

    def command(node_id: str, path: Path) -> list[str]:
        return [sys.executable, "-c", stand_in, node_id, "good"]

    supervisor = Supervisor(config, print, command, ["--accept-data-loss"])
    started = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run(lambda supervisor: started.set()))
        await started.wait()
        await asyncio.to_thread(statefile.ask, config.data_dir, 20, do="restart", node="n1")
        supervisor.request_stop()
    starts = [line for line in supervisor.nodes["n1"].log.read_text().splitlines() if line.startswith("[")]
    assert starts == ["['n1', 'good', '--accept-data-loss']", "['n1', 'good']"]


async def test_nodes_whose_supervisor_was_killed_are_refused_by_up_and_stopped_by_down(config: Config) -> None:
    plan.prepare_directory(config.data_dir)
    orphan = await asyncio.create_subprocess_exec(sys.executable, "-c", STAND_IN, "n1", "good")
    started = statefile.process_started(orphan.pid)
    assert started is not None
    node = statefile.NodeState("n1", "127.0.0.1:1", orphan.pid, started, "serving", "n1.log")
    statefile.save(config.data_dir, statefile.State(1, "gone", "c.toml", "none.sock", (node,)))
    with pytest.raises(LocalError, match=rf"n1 \(pid {orphan.pid}\) of an earlier"):
        await Supervisor(config, print).run(lambda supervisor: None)
    waiting = asyncio.ensure_future(orphan.wait())
    assert await asyncio.to_thread(statefile.stop_orphans, (node,), 10) == []
    assert await waiting == -signal.SIGTERM


def test_a_process_with_a_reused_number_is_not_taken_for_the_recorded_one() -> None:
    node = statefile.NodeState("n1", "127.0.0.1:1", os.getpid(), "another start", "serving", "n1.log")
    assert not node.is_alive
    statefile.stop_orphans((node,), 1)  # would end this very test


async def test_a_data_directory_with_a_long_path_still_has_a_control_socket(tmp_path: Path, config: Config) -> None:
    deep = tmp_path / ("d" * 80) / ("e" * 80)
    async with supervised(replace(config, data_dir=deep)) as running:
        state = statefile.running(deep)
        assert not state.socket.startswith(str(deep))
        assert (await running.ask(do="status"))["nodes"][0]["id"] == "n1"
    assert not Path(state.socket).parent.exists()
