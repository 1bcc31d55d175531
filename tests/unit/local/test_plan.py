"""What `kvnode up` starts: which configuration counts, and what it refuses to do to data that is there."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from kvclient.errors import ConfigError
from kvnode import config as configuration
from kvnode.config import NodeConfig
from kvnode.local import plan
from kvnode.local.statefile import LocalError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def file(path: Path, nodes: int, port: int = 9001) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(configuration.local(nodes, "data", port=port).to_toml())
    return path


def ports(config: configuration.Config) -> list[int]:
    return [node.port for node in config.nodes]


def test_without_a_file_three_nodes_are_planned_in_the_current_directory(tmp_path: Path) -> None:
    config = plan.make()
    assert ports(config) == [7401, 7402, 7403]
    assert config.data_dir == tmp_path / ".kvnode"
    assert list(tmp_path.iterdir()) == []


def test_the_named_file_beats_the_one_in_the_current_directory(tmp_path: Path) -> None:
    file(Path("cluster.toml"), 3)
    assert ports(plan.make(file(tmp_path / "other.toml", 3, 9101))) == [9101, 9102, 9103]
    assert ports(plan.make()) == [9001, 9002, 9003]


def test_a_data_directory_keeps_what_it_was_started_with(tmp_path: Path) -> None:
    file(Path("cluster.toml"), 3)
    file(tmp_path / "old" / "cluster.toml", 5, 9201)
    config = plan.make(data_dir=tmp_path / "old")
    assert len(config.nodes) == 5
    assert config.data_dir == tmp_path / "old"


def test_nodes_are_taken_from_the_front_or_added_behind() -> None:
    three = configuration.local(3).nodes
    assert plan.resized(three, 2) == three[:2]
    five = plan.resized(three, 5)
    assert five[:3] == three
    assert [(node.id, node.port) for node in five[3:]] == [("n4", 7404), ("n5", 7405)]


def test_added_nodes_avoid_names_that_are_taken() -> None:
    nodes = (NodeConfig("n2", "127.0.0.1", 9000), NodeConfig("n1", "127.0.0.1", 8000))
    assert [(node.id, node.port) for node in plan.resized(nodes, 4)[2:]] == [("n3", 9001), ("n4", 9002)]


def test_fewer_nodes_than_replicas_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigError, match=r"replicas = 3 is more than the 2 nodes"):
        plan.make(file(Path("cluster.toml"), 3), nodes=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"partitions": 128}, "partitions = 256, not 128"),
        ({"cluster_name": "other"}, "cluster name = local, not other"),
        ({"nodes": configuration.local(4).nodes}, "nodes = n1, n2, n3, not n1, n2, n3, n4"),
    ],
)
def test_data_is_not_started_under_another_placement(tmp_path: Path, change: dict[str, object], said: str) -> None:
    before = configuration.local(3, tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cluster.toml").write_text(before.to_toml())
    (tmp_path / "new.toml").write_text(replace(before, **change).to_toml())  # type: ignore[arg-type]
    with pytest.raises(LocalError, match=said):
        plan.make(tmp_path / "new.toml")


def test_quorums_that_data_was_written_under_are_kept(tmp_path: Path) -> None:
    before = configuration.local(3, tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cluster.toml").write_text(before.to_toml())
    text = before.to_toml().replace("q1 = 2", "q1 = 3").replace("q2 = 2", "q2 = 1")
    (tmp_path / "new.toml").write_text(text)
    with pytest.raises(LocalError, match="replicas, q1, q2 of store default = 3, 2, 2, not 3, 3, 1"):
        plan.make(tmp_path / "new.toml")


def test_ports_may_change_between_starts(tmp_path: Path) -> None:
    before = configuration.local(3, tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cluster.toml").write_text(before.to_toml())
    (tmp_path / "new.toml").write_text(configuration.local(3, tmp_path / "data", port=9301).to_toml())
    assert ports(plan.make(tmp_path / "new.toml")) == [9301, 9302, 9303]


def test_an_address_of_another_machine_is_refused() -> None:
    config = configuration.local(1)
    config = replace(config, nodes=(replace(config.nodes[0], host="192.0.2.1"),))
    with pytest.raises(LocalError, match=r"192\.0\.2\.1:7401 of node n1 is not an address of this machine"):
        plan.check_addresses(config)


def test_a_taken_port_is_named_with_its_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LocalError, match=f"port in use: 127.0.0.1:{port} of node n1"):
            plan.check_addresses(configuration.local(1, port=port))


def test_free_ports_are_distinct_and_can_be_listened_on() -> None:
    found = plan.free_ports(5)
    assert len(set(found)) == 5
    for port in found:
        plan.listen_once("127.0.0.1", port)


def test_a_start_that_is_refused_makes_nothing(tmp_path: Path) -> None:
    config = plan.make(None, tmp_path / "data", 2)
    config = plan.on_free_ports(config)
    taken = config.nodes[1]
    with socket.create_server((taken.host, taken.port)), pytest.raises(LocalError, match="port in use"):
        plan.prepare(config)
    assert not config.data_dir.exists()
    plan.prepare(config)
    assert (config.data_dir / "logs").is_dir()
