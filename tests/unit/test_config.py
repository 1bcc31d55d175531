"""A cluster file is read whole or refused with one sentence that names the key, the value and what is expected."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from kvclient.errors import ConfigError
from kvnode import config
from kvnode.config import Config, GatewayConfig, Limits, NodeConfig, StoreConfig
from kvnode.schema import table_fields

ROOT = Path(__file__).parents[2]
NODE = '[[nodes]]\nid = "{0}"\nhost = "127.0.0.1"\nport = 740{1}\n'
THREE = "".join(NODE.format(f"n{i}", i) for i in (1, 2, 3))
GOOD = f'[cluster]\nname = "c"\n{THREE}'


def load(folder: Path, text: str) -> Config:
    path = folder / "cluster.toml"
    path.write_text(text, "utf-8")
    return config.load(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'cluster.toml'}: ")
    assert caught.value.outcome == "not applied"
    return message.removeprefix(f"{folder / 'cluster.toml'}: ")


def test_the_sample_starts_as_it_is() -> None:
    sample = config.load(ROOT / "cluster.toml")
    assert [(n.id, n.address, n.zone) for n in sample.nodes] == [
        ("n1", "127.0.0.1:7401", "a"),
        ("n2", "127.0.0.1:7402", "b"),
        ("n3", "127.0.0.1:7403", "c"),
    ]
    assert sample.limits == Limits()
    assert sample.store("default") == StoreConfig()
    assert sample.partitions == 256


def test_the_sample_names_every_key_and_its_comments_name_the_defaults(tmp_path: Path) -> None:
    text = (ROOT / "cluster.toml").read_text("utf-8")
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    loaded = load(tmp_path, uncommented)
    assert loaded.limits == Limits()
    assert loaded.gateway == GatewayConfig()
    assert loaded.stores == {"default": StoreConfig(), "statestore": StoreConfig("statestore")}
    named = set(re.findall(r"^(\w+) = ", uncommented, flags=re.MULTILINE))
    known = {key for table in (Limits, GatewayConfig, StoreConfig, NodeConfig) for key in table_fields(table)}
    assert named == known | {"name", "partitions", "data_dir"}


def test_the_samples_comments_name_the_bounds_of_limits_and_the_gateway() -> None:
    text = (ROOT / "cluster.toml").read_text("utf-8")
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
    for key, (_, spec) in (table_fields(Limits) | table_fields(GatewayConfig)).items():
        if spec.kind is str:
            continue
        low, low_unit, high, high_unit = re.search(
            rf"^# {key} = .*; ([\d.]+)(?: (\w+))? to ([\d.]+)(?: (\w+))?", text, re.MULTILINE
        ).groups()  # type: ignore[union-attr]
        bounds = float(low) * units.get(low_unit, 1), float(high) * units.get(high_unit, 1)
        assert bounds == (spec.low, spec.high), key


def test_defaults_are_filled_in_and_data_dir_is_relative_to_the_file(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    assert loaded.data_dir == tmp_path / ".kvnode"
    assert loaded.store("default") == StoreConfig("default", 3, 2, 2, 1, 1)
    assert loaded.limits.frame_bytes_max == 4 * 8 * 2**20 + 2**20
    assert loaded.node("n2").port == 7402
    assert loaded.node_index("n3") == 2


def test_every_default_lies_within_its_bounds() -> None:
    for table in (Limits, GatewayConfig, NodeConfig, StoreConfig):
        for key, (item, spec) in table_fields(table).items():
            if isinstance(item.default, (int, float, str)) and not (key in ("q1", "q2") and item.default == 0):
                assert spec.accepts(item.default), key


def test_every_limit_has_a_bound() -> None:
    assert set(table_fields(Limits)) == {item.name for item in fields(Limits)}


def test_an_unknown_store_has_the_default_settings_under_its_own_name(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD + "[stores.default]\nr = 2\n[stores.x]\nw = 3\n")
    assert loaded.store("y") == StoreConfig(name="y", r=2)
    assert loaded.store("y") is loaded.store("y")
    assert loaded.store("x") == StoreConfig(name="x", r=2, w=3)


def test_names_of_stores_that_clients_make_up_are_not_kept_without_bound(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    for i in range(3000):
        loaded.store(f"s{i}")
    assert len(loaded._derived) <= 1024


def test_a_store_with_fewer_copies_gets_the_majority_of_its_own(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD + "[stores.x]\nreplicas = 1\n")
    assert (loaded.store("x").q1, loaded.store("x").q2) == (1, 1)


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 7])
def test_what_is_written_is_read_back_the_same(tmp_path: Path, nodes: int) -> None:
    made = config.local(nodes, tmp_path / 'a "b" \\ ü')
    assert load(tmp_path, made.to_toml()) == made
    assert made.store("default").replicas == min(3, nodes)


def test_a_file_with_everything_is_read_back_the_same(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD + '[stores."a b"]\nttl = 5\nmix = "strong-only"\n[limits]\ntimeout_s = 2\n')
    assert load(tmp_path, loaded.to_toml()) == loaded


@pytest.mark.parametrize("nodes", [0, -1, 65])
def test_a_local_cluster_of_no_or_too_many_nodes_is_refused(nodes: int) -> None:
    with pytest.raises(ConfigError, match=f"{nodes} nodes from port 7401 are not possible; 1 to 64 are"):
        config.local(nodes)


def test_a_local_cluster_beyond_the_last_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 nodes from port 65534 are not possible; 1 to 2 are"):
        config.local(3, port=65534)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cluster]\nnme = 'c'\n", '[cluster]: unknown key "nme"; did you mean "name"?'),
        ("[clusters]\nname = 'c'\n", 'top level: unknown key "clusters"; did you mean "cluster"?'),
        (GOOD + "[store.x]\n", 'top level: unknown key "store"; did you mean "stores"?'),
        (
            GOOD + "[stores.default]\nreplcas = 3\n",
            '[stores.default]: unknown key "replcas"; did you mean "replicas"?',
        ),
        (GOOD + "[stores.x]\ntll = 3\n", '[stores.x]: unknown key "tll"; did you mean "ttl"?'),
        (GOOD + "[limits]\ntimeout = 3\n", '[limits]: unknown key "timeout"; did you mean "timeout_s"?'),
        (GOOD.replace("port", "prt"), '[[nodes]] number 1: unknown key "prt"; did you mean "port"?'),
        (
            "[cluster]\nname = 'c'\nzzz = 1\n",
            '[cluster]: unknown key "zzz"; known are: name, partitions, data_dir',
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cluster]\nname = 3\n", "[cluster] name = 3 (an integer); a string from 1 to 64 characters is expected"),
        (
            GOOD + "[stores.default]\nreplicas = '3'\n",
            '[stores.default] replicas = "3" (a string); an integer from 1 to 7 is expected',
        ),
        (
            GOOD + "[stores.default]\nreplicas = true\n",
            "[stores.default] replicas = true (a boolean); an integer from 1 to 7 is expected",
        ),
        (
            GOOD + "[limits]\ntimeout_s = '5'\n",
            '[limits] timeout_s = "5" (a string); a number of seconds from 0.01 to 3600 is expected',
        ),
        (
            GOOD + "[limits]\nscan_page_max = 1.5\n",
            "[limits] scan_page_max = 1.5 (a number); an integer from 1 to 100000 is expected",
        ),
        ("cluster = 3\n", "[cluster] is 3 (an integer); a table is expected"),
        (GOOD + "[gateway]\nhttp = 3500\n", '[gateway]: unknown key "http"; did you mean "http_port"?'),
        (GOOD + "[stores]\nx = 3\n", "[stores.x] is 3 (an integer); a table is expected"),
        ("limits = []\n" + GOOD, "[limits] is [] (an array); a table is expected"),
        (
            "[cluster]\nname = 'c'\n[nodes]\nid = 'n1'\n",
            "nodes is one table; write [[nodes]], with two brackets, before each node",
        ),
        ("nodes = [1]\n[cluster]\nname='c'\n", "[[nodes]] number 1 is 1 (an integer); a table is expected"),
    ],
)
def test_a_wrong_type_is_refused_with_value_and_expectation(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cluster]\nname = ''\n", '[cluster] name = "" (a string) is out of bounds; a string from 1 to 64 characters'),
        (
            GOOD.replace("7401", "0"),
            "[[nodes]] number 1 port = 0 (an integer) is out of bounds; an integer from 1 to 65535",
        ),
        (GOOD.replace("7401", "65536"), "[[nodes]] number 1 port = 65536 (an integer) is out of bounds"),
        (GOOD.replace('"c"', '"c"\npartitions = 0'), "[cluster] partitions = 0 (an integer) is out of bounds"),
        (
            GOOD + "[stores.default]\nreplicas = 8\n",
            "replicas = 8 (an integer) is out of bounds; an integer from 1 to 7",
        ),
        (GOOD + "[stores.default]\nr = 0\n", "r = 0 (an integer) is out of bounds; an integer from 1 to 7"),
        (GOOD + "[stores.default]\nw = -1\n", "w = -1 (an integer) is out of bounds; an integer from 1 to 7"),
        (
            GOOD + "[stores.default]\nttl = -1\n",
            "ttl = -1 (an integer) is out of bounds; an integer of seconds from 0 to",
        ),
        (GOOD + "[stores.default]\nttl = 99999999999\n", "ttl = 99999999999 (an integer) is out of bounds"),
        (GOOD + "[stores.default]\ngc_grace = 1\n", "gc_grace = 1 (an integer) is out of bounds"),
        (GOOD + "[limits]\ntimeout_s = nan\n", "timeout_s = nan (a number) is out of bounds"),
        (GOOD + "[limits]\ntimeout_s = inf\n", "timeout_s = inf (a number) is out of bounds"),
        (
            GOOD + "[limits]\ntimeout_s = 0\n",
            "timeout_s = 0 (an integer) is out of bounds; a number of seconds from 0.01",
        ),
        (
            GOOD + "[stores.default]\nconsistency = 'weak'\n",
            '[stores.default] consistency = "weak" (a string) is not one of the choices;'
            ' "eventual" or "quorum" or "strong" is expected',
        ),
        (GOOD + "[stores.default]\nconcurrency = ''\n", '"last-write" or "first-write" is expected'),
        (GOOD + "[stores.default]\ndurability = 'none'\n", '"fsync" or "os" is expected'),
        (GOOD + "[stores.default]\nmix = 'yes'\n", '"allow" or "strong-only" is expected'),
        (f"[cluster]\nname = '{'x' * 65}'\n", "is out of bounds; a string from 1 to 64 characters is expected"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bound(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            GOOD + "[stores.default]\nq1 = 1\nq2 = 2\n",
            "[stores.default] q1 + q2 = 1 + 2 = 3 <= replicas = 3: two quorums could miss each other and lose a strong"
            " write; q1 + q2 must be at least 4",
        ),
        (
            GOOD + "[stores.x]\nq2 = 1\n",
            "[stores.x] q1 + q2 = 2 + 1 = 3 <= replicas = 3: two quorums could miss each other and lose a strong"
            " write; q1 + q2 must be at least 4",
        ),
        (
            GOOD + "[stores.default]\nreplicas = 5\n",
            "[stores.default] replicas = 5 is more than the 3 nodes; add nodes or keep fewer copies",
        ),
        (
            GOOD + "[stores.default]\nr = 4\n",
            "[stores.default] r = 4 is more than replicas = 3; 1 to 3 is expected",
        ),
        (
            GOOD + "[stores.x]\nreplicas = 1\nw = 2\n",
            "[stores.x] w = 2 is more than replicas = 1; 1 to 1 is expected",
        ),
        (
            GOOD + "[stores.default]\nq1 = 4\n",
            "[stores.default] q1 = 4 is more than replicas = 3; 1 to 3 is expected",
        ),
        (
            GOOD.replace("n2", "n1"),
            'two [[nodes]] have the id "n1"; every node needs an id of its own',
        ),
        (
            GOOD.replace("7402", "7401"),
            "n1 and n2 have the same address 127.0.0.1:7401; every node needs a port of its own on its host",
        ),
        (
            GOOD.replace("7402", "7401").replace('"127.0.0.1"', '"localhost"', 1),
            "n1 and n2 have the same address 127.0.0.1:7401; every node needs a port of its own on its host",
        ),
        ("[cluster]\nname = 'c'\n", "the file names 0 nodes; 1 to 64 tables [[nodes]] are expected"),
        (
            GOOD.replace('"n1"', '"n 1"'),
            '[[nodes]] id = "n 1" is not a name; use letters, digits, ".", "_" and "-"',
        ),
        (
            GOOD.replace('"127.0.0.1"', '"a b"', 1),
            '[[nodes]] "n1" host = "a b" has spaces; a name or an address is expected',
        ),
        (
            GOOD.replace("port = 7401", ""),
            "[[nodes]] number 1: the key port is missing; an integer from 1 to 65535 is expected",
        ),
        (THREE, "the table [cluster] with the cluster's name is missing"),
        (
            "[cluster]\n" + THREE,
            "[cluster]: the key name is missing; a string from 1 to 64 characters is expected",
        ),
        (
            GOOD + '[stores.""]\n',
            "[stores.]: a store's name has 1 to 128 bytes of UTF-8 and no NUL",
        ),
        (
            GOOD + "[limits]\ntimeout_s = 10\ntimeout_s_max = 5\n",
            "[limits] timeout_s = 10.0 is more than timeout_s_max = 5.0; raise timeout_s_max",
        ),
        (
            GOOD + "[limits]\nvalue_bytes_max = 16777216\n",
            "[limits] frame_bytes_max = 68157440 (4 * value_bytes_max + 1 MiB) is more than outbox_bytes_max = 67108864"
            "; raise outbox_bytes_max",
        ),
    ],
)
def test_an_unsafe_combination_is_refused_with_the_arithmetic(tmp_path: Path, text: str, expected: str) -> None:
    """R26: q1 + q2 > N, and what else cannot work together."""
    assert refusal(tmp_path, text) == expected


@pytest.mark.parametrize(("replicas", "q1", "q2"), [(3, 1, 3), (3, 3, 1), (5, 2, 4), (4, 2, 3), (7, 4, 4)])
def test_quorums_that_meet_are_accepted(tmp_path: Path, replicas: int, q1: int, q2: int) -> None:
    """R26."""
    nodes = "".join(NODE.format(f"n{i}", i) for i in range(1, 8))
    head = "[cluster]\nname = 'c'\n" + nodes
    loaded = load(tmp_path, f"{head}[stores.default]\nreplicas = {replicas}\nq1 = {q1}\nq2 = {q2}\n")
    assert (loaded.store("default").q1, loaded.store("default").q2) == (q1, q2)


def test_bad_syntax_is_refused_with_its_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, '[cluster]\nname = "c\n')
    assert message.startswith("not valid TOML: ")
    assert "at line 2" in message


def test_an_absent_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: there is no such file; name a cluster file with --config"):
        config.load(tmp_path / "nothing.toml")


def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file cannot be read: Is a directory"):
        config.load(tmp_path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_bytes(b'[cluster]\nname = "\xff"\n')
    with pytest.raises(ConfigError, match="the file is not UTF-8: invalid start byte at byte 18"):
        config.load(tmp_path / "cluster.toml")


def test_a_node_that_the_file_does_not_name_is_refused_with_those_that_it_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='there is no node "n9" in the cluster "c"; its nodes are n1, n2, n3'):
        load(tmp_path, GOOD).node("n9")


def test_a_grace_that_a_stalled_link_can_outlast_is_refused(tmp_path: Path) -> None:
    """R37."""
    text = GOOD + "[stores.default]\ngc_grace = 60\n[limits]\nlink_silence_s = {}\n"
    assert load(tmp_path, text.format(30)).limits.link_silence_s == 30
    assert "gc_grace = 60 is less than twice [limits] link_silence_s = 31" in refusal(tmp_path, text.format(31))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "[gateway]\nhttp_port = 50001\n", "[gateway] grpc_port = 50001 is [gateway] http_port too"),
        (GOOD + "[gateway]\ngrpc_port = 7401\n", "[gateway] grpc_port = 7401 is the port of node n1 too"),
        (
            GOOD + "[gateway]\nbody_bytes_max = 2097152\nbodies_bytes_max = 1048576\n",
            "bodies_bytes_max = 1048576 is less than body_bytes_max = 2097152",
        ),
    ],
)
def test_settings_of_the_gateway_that_contradict_each_other_are_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)
