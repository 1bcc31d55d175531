"""Every command end to end against real nodes: what it prints, what it answers, and how it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c

from kvnode.local import plan

Run = Callable[..., subprocess.CompletedProcess[str]]


def sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Check the exit code and that the error is one sentence without a traceback; return it."""
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("kvnode: ")
    return lines[0]


# -- one operation


@pytest.mark.parametrize(
    ("argument", "printed"),
    [
        ('{"b": 1.0, "a": [1, 2]}', '{"b": 1.0, "a": [1, 2]}\n'),  # JSON is stored untouched
        ("17", "17\n"),
        ("null", "null\n"),
        ("false", "false\n"),
        ("hello", '"hello"\n'),
        ("NaN", '"NaN"\n'),  # not JSON, so text
        ('"17"', '"17"\n'),
    ],
)
@pytest.mark.parametrize("consistency", ["eventual", "strong"])
def test_a_value_is_json_if_it_parses_and_text_otherwise(
    shared_cluster: Any, argument: str, printed: str, consistency: str
) -> None:
    assert shared_cluster.kvnode("put", "value", argument, "--consistency", consistency).returncode == 0
    done = shared_cluster.kvnode("get", "value", "--consistency", "strong")
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


def test_bytes_from_stdin_come_back_as_they_were(shared_cluster: Any) -> None:
    data = bytes(range(256))
    assert shared_cluster.kvnode("put", "bytes", "-", stdin=data).returncode == 0
    assert shared_cluster.kvnode("get", "bytes").stdout.encode("utf-8", "surrogateescape") == data
    assert json.loads(shared_cluster.kvnode("get", "bytes", "--json").stdout)["base64"].startswith("AAECAw")


def test_raw_prints_text_and_bytes_as_they_are(shared_cluster: Any) -> None:
    for value, printed in (('"é\\n"', "é\n"), ("text", "text"), ("[1]", "[1]\n")):
        shared_cluster.kvnode("put", "raw", value, "--consistency", "strong")
        assert shared_cluster.kvnode("get", "raw", "--raw", "--consistency", "strong").stdout == printed
    shared_cluster.kvnode("put", "raw", "-", "--consistency", "strong", stdin=b"\x00\xff")
    done = shared_cluster.kvnode("get", "raw", "--raw", "--consistency", "strong")
    assert done.stdout.encode("utf-8", "surrogateescape") == b"\x00\xff"


def test_a_file_is_stored_as_bytes_or_as_what_is_said(shared_cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "value.json"
    file.write_text('{"a": 1}')
    shared_cluster.kvnode("put", "file", "--file", str(file))
    assert "base64" in json.loads(shared_cluster.kvnode("get", "file", "--json").stdout)
    shared_cluster.kvnode("put", "file", "--file", str(file), "--as", "json")
    assert json.loads(shared_cluster.kvnode("get", "file", "--json").stdout)["value"] == {"a": 1}


def test_the_etag_that_put_prints_guards_the_next_write(shared_cluster: Any) -> None:
    first = shared_cluster.kvnode("put", "guarded", "1", "--consistency", "strong").stdout.strip()
    second = shared_cluster.kvnode("put", "guarded", "2", "--etag", first, "--json")
    assert second.returncode == 0
    etag = json.loads(second.stdout)["etag"]
    assert etag != first
    assert etag in sentence(shared_cluster.kvnode("put", "guarded", "3", "--etag", first), 3)
    assert shared_cluster.kvnode("get", "guarded").stdout == "2\n"


def test_a_lost_check_ends_with_code_3_and_changes_nothing(shared_cluster: Any) -> None:
    shared_cluster.kvnode("put", "there", "1", "--consistency", "strong")
    said = sentence(shared_cluster.kvnode("put", "there", "2", "--create"), 3)
    assert "'there' in store 'default' exists already" in said
    sentence(shared_cluster.kvnode("put", "there", "2", "--etag", "not an etag"), 3)
    sentence(shared_cluster.kvnode("delete", "there", "--etag", "not an etag"), 3)
    assert shared_cluster.kvnode("get", "there").stdout == "1\n"


def test_an_absent_key_ends_with_code_1(shared_cluster: Any) -> None:
    said = sentence(shared_cluster.kvnode("get", "absent"), 1)
    assert said == "kvnode: there is no key \"absent\" in store 'default'"
    shared_cluster.kvnode("put", "gone", "1", "--consistency", "strong")
    assert shared_cluster.kvnode("delete", "gone", "--consistency", "strong").returncode == 0
    assert shared_cluster.kvnode("delete", "gone", "--consistency", "strong").returncode == 0
    sentence(shared_cluster.kvnode("get", "gone", "--consistency", "strong"), 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("get", ""), "1 to 1024 bytes"),
        (("get", "k" * 1025), "1 to 1024 bytes"),
        (("get", "k", "-r", "4"), "1 to 3"),
        (("get", "k", "-r", "0"), "1 to 3"),
        (("get", "k", "--timeout", "-1"), "timeout"),
        (("get", "k", "--timeout", "100000"), "--timeout 100000.0 must"),
        (("import", "-", "--timeout", "0"), "--timeout 0.0 must"),
        (("get", "k", "--address", "127.0.0.1:1"), "--address and --data-dir"),
        (("get", "k", "--raw", "--json"), "--raw or --json"),
        (("get", "k", "--consistency", "maybe"), "consistency"),
        (("get", "k", "--store", ""), "store"),
        (("put", "k", "v", "-w", "4"), "1 to 3"),
        (("put", "k", "v", "-w", "some"), "nor any"),
        (("put", "k", "v", "--ttl", "-1"), "ttl"),
        (("put", "k", "v", "--ttl", "1e12"), "ttl"),
        (("put", "k", "{", "--as", "json"), "not JSON"),
        (("put", "k", "NaN", "--as", "json"), "not JSON"),
        (("put", "k"), "VALUE"),
        (("put", "k", "v", "--etag", "x", "--create"), "--create says that the key is absent, --etag that"),
        (("frobnicate",), "frobnicate"),
        (("kill", "n9"), "n1, n2, n3"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(shared_cluster: Any, arguments: tuple[str, ...], said: str) -> None:
    assert said in sentence(shared_cluster.kvnode(*arguments), 1 if arguments[0] == "kill" else 2)


def test_a_key_that_is_not_utf8_is_refused(shared_cluster: Any) -> None:
    assert "not valid Unicode" in sentence(shared_cluster.kvnode("get", os.fsdecode(b"\xff\xfe")), 2)


def test_a_value_above_the_clusters_limit_is_refused(shared_cluster: Any) -> None:
    limit = shared_cluster.config.limits.value_bytes_max
    assert str(limit) in sentence(shared_cluster.kvnode("put", "large", "-", stdin=bytes(limit + 1)), 2)


# -- many keys


def test_scan_lists_a_prefix_in_order_up_to_its_limit(shared_cluster: Any) -> None:
    for number in (3, 1, 2, 10):
        shared_cluster.kvnode("put", f"scan/{number:02}", str(number), "-w", "3")
    shared_cluster.kvnode("put", "scam", "0", "-w", "3")
    assert shared_cluster.kvnode("scan", "scan/").stdout.split() == ["scan/01", "scan/02", "scan/03", "scan/10"]
    assert shared_cluster.kvnode("scan", "scan/", "--limit", "2").stdout.split() == ["scan/01", "scan/02"]
    assert shared_cluster.kvnode("scan", "scan/", "--limit", "1", "--values").stdout == "scan/01\t1\n"
    lines = shared_cluster.kvnode("scan", "scan/", "--json").stdout.splitlines()
    assert [json.loads(line)["value"] for line in lines] == [1, 2, 3, 10]


def test_a_reader_that_has_seen_enough_is_no_failure(shared_cluster: Any) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as stdout:
        scan = [sys.executable, "-m", "kvnode", "scan", "--data-dir", str(shared_cluster.directory)]
        shared_cluster.kvnode("put", "seen", "1", "-w", "3")
        done = subprocess.run(scan, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_a_sentence(shared_cluster: Any) -> None:
    scan = [sys.executable, "-m", "kvnode", "scan", "--data-dir", str(shared_cluster.directory)]
    shared_cluster.kvnode("put", "seen", "1", "-w", "3")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(scan, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert sentence(done, 1) == "kvnode: No space left on device"


def test_output_that_was_closed_is_missed_by_nobody(shared_cluster: Any) -> None:
    scan = [sys.executable, "-m", "kvnode", "scan", "--data-dir", str(shared_cluster.directory)]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *scan], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_explain_shows_every_replica(shared_cluster: Any) -> None:
    shared_cluster.kvnode("put", "explained", "1", "--consistency", "strong")
    done = shared_cluster.kvnode("explain", "explained")
    assert all(name in done.stdout for name in ("n1", "n2", "n3", "partition", "strong read"))
    facts = json.loads(shared_cluster.kvnode("explain", "explained", "--json").stdout)
    assert sorted(facts["preference"]) == ["n1", "n2", "n3"]
    assert {replica["node"] for replica in facts["replicas"]} == {"n1", "n2", "n3"}


def test_piped_output_is_plain(shared_cluster: Any) -> None:
    for arguments in (("status",), ("explain", "k"), ("scan",)):
        done = shared_cluster.kvnode(*arguments)
        assert "\x1b" not in done.stdout + done.stderr
        assert not set("╭│╰─") & set(done.stdout)


# -- which cluster


def test_a_cluster_is_found_by_address_by_file_and_in_the_current_directory(
    shared_cluster: Any, command: Run, tmp_path: Path
) -> None:
    shared_cluster.kvnode("put", "found", "1", "-w", "3")
    config = shared_cluster.directory / "cluster.toml"
    assert command("get", "found", "--address", shared_cluster.addresses[1]).stdout == "1\n"
    assert command("get", "found", "--config", str(config)).stdout == "1\n"
    (tmp_path / "cluster.toml").write_text(config.read_text())
    assert command("get", "found", cwd=tmp_path).stdout == "1\n"
    (tmp_path / "empty").mkdir()
    assert "which cluster?" in sentence(command("get", "found", cwd=tmp_path / "empty"), 1)


def test_nobody_listening_is_refused_with_code_4(command: Run) -> None:
    port = plan.free_ports(1)[0]
    assert f"127.0.0.1:{port}" in sentence(command("get", "k", "--address", f"127.0.0.1:{port}"), 4)


def test_the_timeout_bounds_a_command_that_finds_a_silent_port(command: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        said = sentence(command("get", "k", "--address", address, "--timeout", "0.25"), 4)
    assert "within 0.25 seconds" in said


def test_a_name_that_does_not_resolve_is_named_as_that(command: Run) -> None:
    assert "does not resolve" in sentence(command("get", "k", "--address", "nowhere.invalid:7401"), 4)
    done = command("status", "--address", "nowhere.invalid:7401")
    assert "does not resolve" in done.stdout
    assert "nobody listens" not in done.stdout


def test_status_by_address_knows_the_cluster_and_says_an_address_once(shared_cluster: Any, command: Run) -> None:
    done = command("status", "--address", shared_cluster.addresses[0], "--json")
    assert json.loads(done.stdout)["cluster"] == shared_cluster.config.cluster_name
    dead = f"127.0.0.1:{plan.free_ports(1)[0]}"
    last = command("status", "--address", dead).stdout.splitlines()[-1]
    assert last.count(dead) == 1


def test_a_watch_ends_quietly_with_ctrl_c(shared_cluster: Any) -> None:
    watch = shared_cluster.start("status", "--watch")
    assert watch.stdout.readline().startswith("node")
    watch.send_signal(signal.SIGINT)
    _, said = watch.communicate(timeout=60)
    assert (watch.returncode, said) == (0, "")


@pytest.fixture
def stranger() -> Iterator[str]:
    """A server that speaks another protocol."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                    with link:
                        link.recv(4096)
                        link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_what_is_no_kvnode_is_named_as_that(stranger: str, command: Run) -> None:
    assert stranger in sentence(command("put", "k", "v", "--address", stranger), 4)
    done = command("status", "--address", stranger, "--json")
    (facts,) = json.loads(done.stdout)["nodes"]
    assert (done.returncode, facts["state"]) == (1, "unreachable")
    assert "not a kvnode" in facts["error"]


def test_a_cluster_with_another_name_is_refused(shared_cluster: Any, command: Run, tmp_path: Path) -> None:
    other = tmp_path / "cluster.toml"
    text = (shared_cluster.directory / "cluster.toml").read_text()
    other.write_text(text.replace('name = "local"', 'name = "other"').replace(str(shared_cluster.directory), "nowhere"))
    done = command("status", "--config", str(other), "--json")
    nodes = json.loads(done.stdout)["nodes"]
    assert all("this is cluster 'local', not 'other'" in node["error"] for node in nodes)
    assert {node["state"] for node in nodes} == {"other cluster"}


# -- nodes that die, sleep and come back


def test_status_tells_serving_paused_and_dead_nodes_apart(cluster: Any) -> None:
    assert cluster.kvnode("status").returncode == 0
    cluster.kvnode("kill", "n1")
    cluster.kvnode("pause", "n2")
    done = cluster.kvnode("status", "--json")
    assert done.returncode == 1
    facts = json.loads(done.stdout)
    assert (facts["nodes"][2]["keys"], facts["nodes"][2]["ops"]) == (0, {})  # nothing was stored or asked for yet
    assert [node["state"] for node in facts["nodes"]] == ["down", "paused", "serving"]
    assert [bool(node["pid"]) for node in facts["nodes"]] == [False, True, True]
    assert {"epoch", "keys", "bytes", "clock_offset_ms", "hints", "repairs", "ops_per_s", "latency_ms"} <= set(
        facts["nodes"][2]
    )
    assert cluster.kvnode("resume", "n2").returncode == 0
    assert cluster.kvnode("restart", "n1").returncode == 0
    assert cluster.kvnode("status").returncode == 0


def test_a_strong_write_without_a_majority_is_refused_with_code_4(cluster: Any) -> None:
    cluster.kvnode("kill", "n2")
    cluster.kvnode("kill", "n3")
    sentence(cluster.kvnode("put", "k", "1", "--consistency", "strong"), 4)
    assert cluster.kvnode("put", "k", "1", "--consistency", "eventual").returncode == 0
    assert cluster.kvnode("get", "k", "--consistency", "eventual").stdout == "1\n"


def test_a_strong_write_that_nobody_answers_ends_with_code_5(new_cluster: Any) -> None:
    """n1 is the key's primary and has its promise, so the write itself leaves, while the links are still open."""
    with new_cluster("silent", link_silence_s=60.0) as cluster:
        keys = (f"k{number}" for number in range(99))
        explained = ((key, cluster.kvnode("explain", key, "--json").stdout) for key in keys)
        key = next(key for key, text in explained if json.loads(text)["preference"][0] == "n1")
        assert cluster.kvnode("put", key, "0", "--consistency", "strong").returncode == 0
        cluster.tell("pause", "n2")
        cluster.tell("pause", "n3")
        done = cluster.kvnode("put", key, "1", "--consistency", "strong", "--timeout", "1")
        assert "may or may not" in sentence(done, 5)


def test_a_killed_node_is_refused_by_kill_and_comes_back_by_restart(cluster: Any) -> None:
    before = cluster.node("n1").pid
    assert cluster.kvnode("kill", "n1").returncode == 0
    assert "does not run" in sentence(cluster.kvnode("kill", "n1"), 1)
    assert cluster.kvnode("restart", "n1").returncode == 0
    assert cluster.node("n1").pid not in (0, before)


# -- up, down and node


def small_config(directory: Path) -> Path:
    """Write a configuration with one node on a free port, and return its path."""
    path = directory / "cluster.toml"
    port = plan.free_ports(1)[0]
    path.write_text(
        f'[cluster]\nname = "small"\ndata_dir = "data"\n[[nodes]]\nid = "n1"\nhost = "127.0.0.1"\nport = {port}\n'
        "[stores.default]\nreplicas = 1\n"
    )
    return path


def test_up_prints_its_nodes_and_drains_them_on_sigterm(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    up = subprocess.Popen(
        [sys.executable, "-m", "kvnode", "up", "--no-gateway", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert up.stdout is not None
    assert up.stdout.readline().split() == ["node", "state", "address", "pid", "log"]
    assert up.stdout.readline().split()[:2] == ["n1", "serving"]
    up.send_signal(signal.SIGTERM)
    out, error = up.communicate(timeout=60)
    assert (up.returncode, error) == (0, "")
    assert out.endswith("stopped\n")


def test_up_detaches_and_down_stops_it(tmp_path: Path, command: Run) -> None:
    config = str(small_config(tmp_path))
    assert command("up", "--no-gateway", "--config", config, "--detach").returncode == 0
    try:
        assert "runs on" in sentence(command("up", "--no-gateway", "--config", config, "--detach"), 1)
        assert "runs on" in sentence(command("up", "--no-gateway", "--config", config), 1)
    finally:
        assert command("down", "--config", config).returncode == 0
    assert "no cluster runs" in sentence(command("down", "--config", config), 1)


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_up_names_a_port_that_is_taken(tmp_path: Path, command: Run, detach: tuple[str, ...]) -> None:
    config = small_config(tmp_path)
    port = int(config.read_text().partition("port = ")[2].split()[0])
    with socket.create_server(("127.0.0.1", port)):
        done = command("up", "--no-gateway", "--config", str(config), *detach)
    assert f"port in use: 127.0.0.1:{port} of node n1" in sentence(done, 1)
    assert not (tmp_path / "data").exists()


def test_a_node_whose_port_is_taken_ends_with_the_code_that_up_has(tmp_path: Path, command: Run) -> None:
    config = small_config(tmp_path)
    port = int(config.read_text().partition("port = ")[2].split()[0])
    with socket.create_server(("127.0.0.1", port)):
        assert f"cannot listen on 127.0.0.1:{port}" in sentence(command("node", "n1", "--config", str(config)), 1)


def power_cut(identity: Path) -> None:
    """Let a data directory look as if the machine had been restarted while its process ran."""
    facts = json.loads(identity.read_text())
    del facts["crc32c"]
    facts.update(boot_id="another boot", clean=False)
    facts["crc32c"] = crc32c(json.dumps(facts, sort_keys=True).encode())
    identity.write_text(json.dumps(facts))


def test_a_possible_loss_is_refused_until_it_is_accepted_and_then_told(tmp_path: Path, command: Run) -> None:
    """R48: `up` hands the consent on for one start; the node itself prints what may be lost."""
    path = small_config(tmp_path)
    path.write_text(path.read_text() + 'durability = "os"\n')
    config, identity = str(path), tmp_path / "data" / "n1" / "identity.json"
    log = tmp_path / "data" / "logs" / "n1.log"
    told = "may be lost or undone here"
    assert command("up", "--no-gateway", "--config", config, "--detach").returncode == 0
    assert command("down", "--config", config).returncode == 0
    power_cut(identity)
    assert "start with --accept-data-loss" in sentence(command("node", "n1", "--config", config), 1)
    assert "--accept-data-loss" in command("up", "--no-gateway", "--config", config, "--detach").stderr
    try:
        done = command("up", "--no-gateway", "--config", config, "--detach", "--accept-data-loss")
        assert (done.returncode, str(log.parent) in done.stderr) == (0, True)
        assert told in log.read_text()
        power_cut(identity)
        command("kill", "n1", "--config", config)
        assert "--accept-data-loss" in command("restart", "n1", "--config", config).stderr
    finally:
        command("down", "--config", config)
    running = subprocess.Popen(
        [sys.executable, "-m", "kvnode", "node", "n1", "--config", config, "--accept-data-loss"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert "serves on" in running.stdout.readline()
    running.send_signal(signal.SIGTERM)
    assert told in running.communicate(timeout=60)[1]
    assert running.returncode == 0


def test_a_cluster_that_started_in_part_says_how_to_stop_it(tmp_path: Path, command: Run) -> None:
    config = str(small_config(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "n2").write_text("not a directory")
    done = command("up", "--no-gateway", "--config", config, "--nodes", "2", "--detach")
    try:
        assert done.returncode == 1
        assert "n2 does not serve" in done.stderr
        assert f"stop it with `kvnode down --data-dir {tmp_path / 'data'}`" in done.stdout
    finally:
        command("down", "--config", config)


def test_up_explains_its_own_options(command: Run) -> None:
    text = " ".join(command("up", "--help").stdout.split())
    assert "Where data, logs and the configuration of the last start are kept" in text
    assert "The cluster file to start" in text


def test_an_unwritable_data_directory_is_named(tmp_path: Path, command: Run) -> None:
    (tmp_path / "file").write_text("not a directory")
    config = str(small_config(tmp_path))
    directory = tmp_path / "file" / "data"
    done = command("up", "--no-gateway", "--config", config, "--data-dir", str(directory))
    assert str(directory) in sentence(done, 1)


def test_up_with_more_nodes_than_the_file_adds_them(tmp_path: Path, command: Run) -> None:
    config = str(small_config(tmp_path))
    try:
        assert command("up", "--no-gateway", "--config", config, "--nodes", "2", "--detach").returncode == 0
        facts = json.loads(command("status", "--config", config, "--json").stdout)
        assert [node["state"] for node in facts["nodes"]] == ["serving"] * 2
    finally:
        command("down", "--config", config)
    done = command("up", "--no-gateway", "--config", config, "--nodes", "1", "--detach")
    assert "would lose data" in sentence(done, 1)


def test_a_wrong_configuration_is_refused_with_its_mend(tmp_path: Path, command: Run) -> None:
    config = small_config(tmp_path)
    config.write_text(config.read_text().replace("replicas", "replcas"))
    for arguments in (("up",), ("node", "n1"), ("status",), ("down",)):
        assert 'did you mean "replicas"?' in sentence(command(*arguments, "--config", str(config)), 2)


def test_a_node_that_the_file_does_not_name_is_refused(tmp_path: Path, command: Run) -> None:
    assert "n1" in sentence(command("node", "n7", "--config", str(small_config(tmp_path))), 2)


def test_a_node_refuses_a_data_directory_that_is_in_use(shared_cluster: Any, command: Run) -> None:
    done = command("node", "n1", "--config", str(shared_cluster.directory / "cluster.toml"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_node_refuses_the_data_of_another_cluster(tmp_path: Path, command: Run) -> None:
    config = small_config(tmp_path)
    assert command("up", "--no-gateway", "--config", str(config), "--detach").returncode == 0
    assert command("down", "--config", str(config)).returncode == 0
    config.write_text(config.read_text().replace('"small"', '"another"'))
    done = command("node", "n1", "--config", str(config))
    assert done.returncode == 1
    assert "small" in done.stderr
    assert "another" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_node_stays_small(shared_cluster: Any) -> None:
    pages = int(Path(f"/proc/{shared_cluster.node('n1').pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 80 << 20


def test_a_node_process_does_not_load_what_only_other_commands_need() -> None:
    code = "import sys, kvnode.cli, kvnode.process; print(sorted({'rich', 'kvclient.client'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rich" not in done.stdout
